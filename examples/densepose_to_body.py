"""From DensePose to bodies: a photograph, its IUV png and DensePose's chart file become meshes.

    python examples/densepose_to_body.py photo.jpg photo_IUV.png UV_Processed.mat

Looks at each person from the side as well, where a fit that is good in the picture may still lean.
"""

import sys
from pathlib import Path

import deformlearn

OUT = Path("densepose_to_body")


def main(photo: Path, iuv: Path, charts: Path) -> None:
    template = deformlearn.load_template()
    people = deformlearn.fit_photograph(
        photo, iuv, None, charts, OUT, template, deformlearn.RegistrationConfig()
    )
    for person in people:
        print(
            f"{person.key}: {person.points} points, {person.held_out_px:.2f} px from points it never saw "
            f"({person.error_percent:.2f} % of its size): {person.flag}"
        )
    found = deformlearn.read_estimates(OUT / "estimates.parquet", template)
    vertices = deformlearn.skin(template, found.estimate.body)
    for row, key in enumerate(found.keys):
        deformlearn.write_obj(OUT / f"{key}.obj", vertices[row], template.faces)
    print(f"look at {OUT / 'sheet.png'}: photo, points, fit, front and side")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
