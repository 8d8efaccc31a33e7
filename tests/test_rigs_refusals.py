"""Files that are no rig of a person, or are damaged: one line each, never a wrong body in silence."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deformlearn import templates
from deformlearn.body import skin
from deformlearn.errors import InputError
from deformlearn.rigs.buffers import Buffers
from deformlearn.rigs.gltf import read_gltf
from deformlearn.rigs.rig import Rig, checked
from deformlearn.skeleton import SEGMENTS
from rig_files import MIXAMO, quadruped, rig_of, to_gltf, write_glb, write_gltf


@pytest.fixture(scope="module")
def whole(template, tmp_path_factory) -> bytes:
    """A sound file of the 24 octahedra."""
    path = tmp_path_factory.mktemp("rig") / "person.glb"
    return write_glb(rig_of(template), path).read_bytes()


def refused(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        templates.load(path)
    assert "\n" not in str(caught.value)


def test_the_file_the_others_are_made_from_is_sound(whole, template, tmp_path):
    (tmp_path / "person.glb").write_bytes(whole)
    loaded = templates.load(tmp_path / "person.glb")
    torch.testing.assert_close(loaded.vertices, template.vertices)


# Other kinds


@pytest.mark.parametrize("suffix", [".glb", ".gltf", ".vrm"])
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04zip", b"\xff\xd8\xff\xe0jpeg", b"Kaydara FBX Binary"]
)
def test_another_kind_of_file_is_refused_by_its_first_bytes(tmp_path, suffix, content):
    (tmp_path / f"body{suffix}").write_bytes(content)
    refused(tmp_path / f"body{suffix}", "is no glTF file: it begins with")


def test_a_folder_or_a_missing_file_is_refused(tmp_path):
    (tmp_path / "body.glb").mkdir()
    refused(tmp_path / "body.glb", "unknown template")
    refused(tmp_path / "none.glb", "none.glb does not exist")
    with pytest.raises(InputError, match="cannot read"):
        read_gltf(tmp_path / "none.glb")


def test_json_that_is_no_gltf_is_refused(tmp_path):
    (tmp_path / "body.gltf").write_text('{"people": []}')
    refused(tmp_path / "body.gltf", "has no mesh; wanted a rigged person")


# Rigs of something else, or of nothing


def without(part: str) -> Callable[[Any], None]:
    def change(gltf: pygltflib.GLTF2) -> None:
        if part == "skin":
            gltf.skins = []
            gltf.nodes[-1].skin = None
        elif part == "mesh":
            gltf.meshes = []
        elif part == "use":
            gltf.nodes[-1].mesh = None
        elif part == "weights":
            gltf.meshes[0].primitives[0].attributes.WEIGHTS_0 = None

    return change


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("skin", "has no skin: its mesh is not bound to bones"),
        ("mesh", "has no mesh"),
        ("use", "has a skin but no mesh that uses it"),
        ("weights", "mesh 'part 0' has a skin but no JOINTS_0 and WEIGHTS_0"),
    ],
)
def test_half_a_rig_is_refused_with_what_is_missing(template, tmp_path, part, message):
    gltf, blob = to_gltf(rig_of(template))
    without(part)(gltf)
    refused(write_glb((gltf, blob), tmp_path / "body.glb"), message)


def test_an_animal_with_a_persons_bone_names_is_refused(template, tmp_path):
    path = write_glb(quadruped(template, MIXAMO), tmp_path / "horse.glb")
    refused(path, r"horse is no standing person: its back and legs meet at \d+ degrees.*four legs")


def test_an_animal_with_no_names_is_refused(template, tmp_path):
    names = {segment: f"bone{index}" for index, segment in enumerate(SEGMENTS)}
    path = write_glb(quadruped(template, names), tmp_path / "horse.glb")
    refused(path, "horse stands on four legs: no person")


# Damage, one kind each


def changed(field: str, value: object) -> Callable[[dict], None]:
    """Sets a field of the document: a path of names and indices."""

    def change(document: dict) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in field.split("/")]
        item: Any = document
        for step in way:
            item = item[step]
        item[last] = value

    return change


DAMAGE = {
    "older": (changed("asset/version", "1.0"), "is glTF 1.0; wanted 2.0"),
    "compressed": (changed("extensionsUsed", ["KHR_draco_mesh_compression"]), "without compression"),
    "endless accessor": (changed("accessors/1/count", 10**12), "claims 1000000000000 elements"),
    "long accessor": (changed("accessors/1/count", 145), r"buffer view 1 ends at byte .* are needed"),
    "negative accessor": (changed("accessors/1/count", -1), "claims -1 elements"),
    "negative offset": (changed("accessors/1/byteOffset", -9999), "buffer view 1|are needed"),
    "another type": (changed("accessors/1/type", "VEC2"), "accessor 1 is a VEC2, not of 3 numbers"),
    "unknown type": (changed("accessors/1/componentType", 99), "not a whole glTF file"),
    "no such view": (changed("accessors/1/bufferView", 999), "not a whole glTF file"),
    "no such accessor": (changed("meshes/0/primitives/0/indices", 999), "accessor 999 of"),
    "no such joint": (changed("skins/0/joints", [1, 2, 999]), "not a whole glTF file|moved by joint"),
    "fewer joints": (changed("skins/0/joints", [1, 2, 3]), "moved by joint 23 of a skin with 3"),
    "no such child": (changed("nodes/0/children", [999]), "node 999 is missing"),
    "two parents": (changed("nodes/3/children", [2]), "has two parents"),
    "its own child": (changed("nodes/0/children", [0]), "their own ancestors"),
    "words for numbers": (changed("nodes/1/translation", ["a", "b", "c"]), "not a whole glTF file"),
    "NaN bone": (changed("nodes/1/translation", [float("nan")] * 3), "are NaN or infinite"),
    "on the net": (changed("buffers/0/uri", "https://example.org/a.bin"), "nothing is downloaded"),
    "not there": (changed("buffers/0/uri", "away.bin"), r"needs .*away\.bin, which cannot be read"),
    "anywhere": (changed("buffers/0/uri", "/dev/zero"), "only files beside it are read"),
    "anywhere, written otherwise": (changed("buffers/0/uri", "%2Fdev%2Fzero"), "files beside it"),
    "no base64": (changed("buffers/0/uri", "data:;base64,%%%"), "is no base64"),
    "short buffer": (
        changed("buffers/0/uri", "data:;base64," + base64.b64encode(b"0" * 99).decode()),
        "are needed",
    ),
    "no data": (changed("buffers/0/uri", None), "has neither data nor a file"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_in_one_line(template, tmp_path, case):
    change, message = DAMAGE[case]
    path = write_gltf(rig_of(template), tmp_path / "body.gltf", external=False)
    document = json.loads(path.read_text())
    document["accessors"][1].setdefault("byteOffset", 0)
    change(document)
    path.write_text(json.dumps(document))
    refused(path, message)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a file without an end")
def test_a_buffer_without_an_end_is_refused(template, tmp_path):
    path = write_gltf(rig_of(template), tmp_path / "body.gltf", external=True)
    (tmp_path / "its data.bin").unlink()
    (tmp_path / "its data.bin").symlink_to("/dev/zero")
    refused(path, "its data.bin, which it keeps its data in, is no file")


def test_of_a_buffer_no_more_is_read_than_it_says(template, tmp_path):
    path = write_gltf(rig_of(template), tmp_path / "body.gltf", external=True)
    with open(tmp_path / "its data.bin", "r+b") as file:
        file.truncate(1 << 33)  # holes, which take no place
    templates.load(path)
    document = json.loads(path.read_text())
    document["buffers"][0]["byteLength"] = 1 << 33
    path.write_text(json.dumps(document))
    refused(path, "buffer 0 claims 8589934592 bytes")


def test_a_face_of_a_vertex_that_is_not_there_is_refused(template, tmp_path):
    rig = rig_of(template)
    faces = rig.faces.copy()
    faces[0, 0] = 9999
    from dataclasses import replace

    refused(write_glb(replace(rig, faces=faces), tmp_path / "body.glb"), "names vertex 9999 of 144")


# Values that have no meaning, whatever the format


def rig(**changes) -> Rig:
    parts = dict(
        name="thing", vertices=np.eye(3), faces=np.array([[0, 1, 2]]), bones=("a", "b"),
        parents=(-1, 0), joints=np.zeros((2, 3)), influences=np.array([[0, 1]] * 3),
        weights=np.array([[0.5, 0.5]] * 3),
    )  # fmt: skip
    return Rig(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faces": np.zeros((0, 3), np.int64)}, "thing has no triangles"),
        ({"vertices": np.full((3, 3), np.nan)}, "3 vertices are NaN or infinite"),
        ({"joints": np.full((2, 3), np.inf)}, "2 joints are NaN or infinite"),
        ({"faces": np.array([[0, 1, 3]])}, "a face names vertex 3 of 3"),
        ({"influences": np.array([[0, 2]] * 3)}, "moved by bone 2 of 2"),
        ({"weights": np.array([[0.5, np.nan]] * 3)}, "negative or NaN"),
        ({"weights": np.array([[1.5, -0.5]] * 3)}, "negative or NaN"),
        ({"weights": np.zeros((3, 2))}, "3 of 3 vertices are moved by no bone"),
    ],
)
def test_an_unsound_rig_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        checked(rig(**changes))


def test_sums_other_than_one_are_divided_out_and_said():
    sound = checked(rig(weights=np.array([[1.0, 1.0], [0.5, 0.5], [0.2, 0.6]])))
    np.testing.assert_allclose(sound.weights, [[0.5, 0.5], [0.5, 0.5], [0.25, 0.75]])
    assert sound.notes == (
        "the weights of 2 vertices do not sum to one (from 0.8 to 2): divided by their sum",
    )


def test_an_index_without_weight_means_nothing():
    sound = checked(rig(influences=np.array([[0, 65535]] * 3), weights=np.array([[1.0, 0.0]] * 3)))
    assert sound.influences.max() == 0
    assert sound.notes == ()


def test_a_sparse_accessor_outside_its_base_is_refused(template, tmp_path):
    gltf, blob = to_gltf(rig_of(template, sparse=True))
    sparse = gltf.accessors[gltf.meshes[0].primitives[0].attributes.POSITION].sparse
    sparse.count = 999
    gltf.set_binary_blob(blob)
    with pytest.raises(InputError, match="replaces 999 of 144"):
        Buffers(gltf, tmp_path / "x.glb").accessor(
            gltf.meshes[0].primitives[0].attributes.POSITION, 3
        )


# Anything at all


def sound_or_refused(path: Path) -> None:
    """A damaged file may still be a body; then it is a whole one."""
    try:
        loaded = templates.load(path)
    except InputError:
        return
    resting = skin(loaded, loaded.rest_parameters(1))[0]
    assert torch.isfinite(resting).all()
    torch.testing.assert_close(loaded.weights.sum(1), torch.ones(len(loaded.vertices)))
    assert loaded.faces.max() < len(loaded.vertices)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(keep=st.floats(0, 1))
def test_a_truncated_file_is_refused(whole, tmp_path, keep):
    path = tmp_path / "body.glb"
    path.write_bytes(whole[: int(keep * (len(whole) - 1))])
    with pytest.raises(InputError):
        templates.load(path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    document_only=st.booleans(),
)
def test_a_file_with_changed_bytes_is_sound_or_refused(whole, tmp_path, places, document_only):
    content = bytearray(whole)
    end = whole.index(b"BIN\0") if document_only else len(whole) - 1
    for where, value in places:
        content[12 + int(where * (end - 12))] = value
    path = tmp_path / "body.glb"
    path.write_bytes(content)
    sound_or_refused(path)
