"""Wheel and sdist, checked as a stranger would find them: python tests/package.py --out dist

Both are built, the wheel from the sdist too; their contents are compared with the source; the wheel is
installed with everything it needs into an empty environment, where the command and the library are used.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

SMOKE = """
from pathlib import Path

import deformlearn
from deformlearn.data.shards import read_people

template = deformlearn.load_template()
folder = Path("people")
deformlearn.synthesize(folder, deformlearn.SyntheticConfig(train=4, val=0, test=0, size=64))
people = read_people(folder, "train", template)
estimate, quality = deformlearn.register(
    template, people.observations, people.crop, deformlearn.RegistrationConfig()
)
assert quality.reprojection_px.max() < 3, quality.reprojection_px
deformlearn.write_obj(Path("one.obj"), deformlearn.skin(template, estimate.body)[0], template.faces)
assert Path("one.obj").stat().st_size > 100_000
print(deformlearn.__version__, deformlearn.__file__)
"""
"""What is done in the empty environment: people made, registered and written."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--contents-only", action="store_true", help="do not install anything")
    options = parser.parse_args()
    wheel, sdist = build(options.out)
    check_contents(wheel, sdist)
    check_rebuilt(wheel, sdist)
    print(
        f"{wheel.name}: {wheel.stat().st_size >> 10} kB, {sdist.name}: {sdist.stat().st_size >> 10} kB"
    )
    if not options.contents_only:
        use_in_empty_environment(wheel)


def build(out: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of the source, the only ones in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        # A copy: what an earlier build left in the source would be taken over, though it is gone.
        source = shutil.copytree(ROOT, Path(folder) / "source", ignore=_not_source)
        call(sys.executable, "-m", "build", "--outdir", out.resolve(), source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def _not_source(folder: str, names: list[str]) -> set[str]:
    """What lies beside the source in a checkout."""
    made = (
        {"build", "dist", "runs", "data", "generated"}
        if Path(folder) in (ROOT, ROOT / "docs")
        else set()
    )
    return {name for name in names if name in made or name.startswith(".") or name == "__pycache__"}


def check_contents(wheel: Path, sdist: Path) -> None:
    """Every file of the package, and nothing of the tests or of anybody's data."""
    source = ROOT / "src"
    package = {
        path.relative_to(source).as_posix()
        for path in (source / "deformlearn").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    of_package = {name for name in in_wheel if name.startswith("deformlearn/")}
    expect(of_package == package, f"the wheel and src differ: {sorted(of_package ^ package)}")
    others = {name.split("/")[0].partition("-")[0] for name in in_wheel}
    expect(others == {"deformlearn"}, f"the wheel holds more than the package: {others}")
    for needed in ("LICENSE", "NOTICE", "METADATA", "entry_points.txt"):
        expect(any(name.endswith(needed) for name in in_wheel), f"the wheel has no {needed}")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    lacking = {f"src/{name}" for name in package} - in_sdist
    expect(not lacking, f"the sdist lacks {sorted(lacking)}")
    strange = {
        name for name in in_sdist if name.startswith(("tests/data", "runs/", "docs/generated"))
    }
    expect(not strange, f"the sdist holds {sorted(strange)}")
    expect("README.md" in in_sdist, "the sdist has no README.md")


def check_rebuilt(wheel: Path, sdist: Path) -> None:
    """The wheel that the sdist makes is the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        call(sys.executable, "-m", "build", "--wheel", "--outdir", Path(folder) / "again", unpacked)
        (again,) = (Path(folder) / "again").glob("*.whl")
        ours, theirs = (
            {one.filename: one.CRC for one in zipfile.ZipFile(path).infolist()}
            for path in (wheel, again)
        )
    differ = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    expect(not differ, f"the wheel of the sdist is another: {sorted(differ)}")


def use_in_empty_environment(wheel: Path) -> None:
    """Install the wheel, and nothing else by hand, and do something with it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        start = time.monotonic()
        call(programs / "python", "-m", "pip", "install", "--quiet", wheel.resolve())
        print(f"installed in {time.monotonic() - start:.0f} s")
        # Nothing of the source may be found: another folder, no PYTHONPATH, no user site.
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        clean |= {"PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1"}
        said = call(programs / "deformlearn", "--version", cwd=folder, env=clean)
        expect(
            said.split() == ["deformlearn", wheel.name.split("-")[1]], f"--version says {said!r}"
        )
        said = call(programs / "python", "-m", "deformlearn", "--help", cwd=folder, env=clean)
        expect("register" in said, f"--help says {said!r}")
        said = call(programs / "python", "-c", SMOKE, cwd=folder, env=clean)
        expect(str(folder) in said, f"another package was used: {said!r}")
        call(programs / "deformlearn", "check", "people", cwd=folder, env=clean)
        expect((folder / "people" / "summary.html").exists(), "check drew no page")
        print(f"used in an empty environment: {said.strip()}")


def call(*words: object, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a program and return what it printed; its failure is ours."""
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"{' '.join(map(str, words))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done.stdout


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        sys.exit(f"package: {otherwise}")


if __name__ == "__main__":
    main()
