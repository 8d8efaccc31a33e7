"""The map of docs/design.md, enforced: who may import whom, and how large a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "deformlearn"
ORDER = """
    errors allocation local_pages files matlab pickled_numpy unpickle torchfiles config runtime
    memory crew compiling progress terminal pictures tensors joint_orders skeleton body camera estimate
    observations
    losses metrics triangles limits raster meshes extremities landmarks rigs.__init__ rigs.rig
    rigs.tree rigs.names rigs.shape rigs.upright rigs.mapping rigs.place rigs.reduce rigs.buffers
    rigs.gltf rigs.smpl anny_body templates nonrigid patches surface_fit surfaces chart_search
    charts densepose_charts render anatomy data.tables data.soundness data.duplicates
    data.sources data.shards data.truth data.images data.video data.estimates data.augment
    data.check data.json_stream data.rle data.person_boxes data.boxes data.densepose data.densepose_labels
    data.densepose_dumps data.predictions data.densepose_results data.attach data.coco_file
    data.coco data.densepose_annotations data.posetrack data.openpose data.mpii data.h36m_metadata
    data.h36m_poses data.h36m data.hdf5 data.mpi_inf_3dhp data.pw3d data.convert data.chunks
    data.rotations data.posing data.gestures data.stances data.poses data.cloth data.outfits
    data.wardrobe data.scenery data.labels data.crowd data.darkroom data.staging data.scenes
    data.photographs distributed agreement locks data.importing data.synthetic
    orientation energy adam least_squares normal_equations gauss_newton registration
    fitted_points flat_poses lifter backbone prefetch regressor
    supervision stepping lessons learning head_only rundir findings protocols evaluation
    image_scores scoring data.streams
    own_joints unseen parts registering workshop comparisons profiling rounds curve reports.__init__
    reports.tables reports.source reports.people reports.strips portraits reports.settings
    reports.sections reports.pair reports.page report datasheet exports.__init__ exports.axes
    exports.placing exports.about exports.influences exports.gltf_file exports.meshes exports.npz
    exports.smpl exports.bvh exports.atlas exports.texture exports.glb exports.people
    exports.photos exports.command predict results judging fitting annotate.marks annotate.labels
    annotate.photos annotate.archive annotate.view annotate.guess annotate.session annotate.server
    annotate.command annotate.__init__ viewer.__init__ viewer.roll viewer.people viewer.source
    viewer.drawing viewer.guard viewer.canvas viewer.cards viewer.people_window
    viewer.template_window viewer.page viewer.screenshot viewer.command cli_run cli_data
    cli_import exports.onnx cli_export cli_view cli data.__init__ __main__ __init__
""".split()
STEPS = {"registration", "lifter", "regressor"}


def modules():
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts): path
        for path in sorted(SOURCE.rglob("*.py"))
    }


def imported_by(path):
    """Names of our own modules imported anywhere in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("deformlearn")
        ):
            inside = node.module.removeprefix("deformlearn").strip(".")
            for alias in node.names:
                nested = f"{inside}.{alias.name}".strip(".")
                yield nested if nested in ORDER else inside
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("deformlearn."):
                    yield alias.name.removeprefix("deformlearn.")


def test_every_module_has_a_place_on_the_map():
    assert set(modules()) == set(ORDER)


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_what_stands_above_it(name):
    if name == "__init__":
        return  # the public names are looked up when they are asked for
    for other in imported_by(modules()[name]):
        assert ORDER.index(other) < ORDER.index(name), (
            f"{name} imports {other}, which stands below it"
        )


def test_the_three_steps_never_import_one_another():
    for name in STEPS | {"lessons", "learning", "head_only"}:
        assert not set(imported_by(modules()[name])) & (STEPS - {name, "regressor"}), name


def test_no_file_is_longer_than_400_lines():
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_every_module_has_a_test_file_or_is_named_in_another():
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for name in {name for name in ORDER if not name.endswith("__init__")} - {"__main__"}:
        assert name.split(".")[-1] in tests, f"no test speaks of {name}"


@pytest.mark.parametrize("statement", ["import deformlearn", "import deformlearn.cli"])
def test_the_door_opens_without_heavy_imports(statement):
    heavy = "torch anny timm matplotlib pyarrow scipy PIL"
    code = f"{statement}\nimport sys\nprint([m for m in {heavy.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
