"""SMPL's files: the official layout, written from Anny, read back by us and by another package."""

import pickle
import sys
import types

import numpy as np
import pytest
import scipy.io
import torch
from scipy import sparse

from deformlearn import templates
from deformlearn.body import BodyTemplate, skin
from deformlearn.errors import InputError
from deformlearn.landmarks import NAMES
from deformlearn.rigs.smpl import VERTEX_IDS, read_smpl
from deformlearn.skeleton import SEGMENTS, mirrored_name
from rig_files import smpl_content, write_smpl

CHUMPY = ("v_template", "shapedirs", "posedirs", "weights")


@pytest.fixture(scope="module")
def content(anny):
    return smpl_content(anny, np.random.default_rng(0))


@pytest.fixture(scope="module")
def small(template):
    """A body of 144 vertices, so that many wrong files can be written."""
    return smpl_content(template, np.random.default_rng(0))


def written(small, path, **changes):
    """A file of `small` with some fields changed; None takes a field out."""
    merged = {**small, **changes}
    return write_smpl({k: v for k, v in merged.items() if v is not None}, path)


@pytest.mark.parametrize(
    ("name", "chumpy"),
    [("SMPL_NEUTRAL.pkl", CHUMPY), ("basicModel_f_lbs_10_207_0_v1.0.0.pkl", CHUMPY),
     ("basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl", ())],
)  # fmt: skip
def test_a_file_of_the_official_layout_is_the_body_it_was_made_from(
    anny, content, tmp_path, name, chumpy
):
    loaded, report = templates.load_with_report(write_smpl(content, tmp_path / name, chumpy=chumpy))
    for field in ("vertices", "faces", "joints", "weights", "mirror"):
        torch.testing.assert_close(
            getattr(loaded, field), getattr(anny, field), atol=1e-6, rtol=0, msg=field
        )
    torch.testing.assert_close(loaded.limits, anny.limits, atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.limit_axes, anny.limit_axes, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        skin(loaded, loaded.rest_parameters(1))[0], anny.vertices, atol=1e-5, rtol=0
    )
    assert loaded.name.startswith("smpl")
    assert report is not None
    assert {found.how for found in report.found} == {"SMPL"}
    assert "blend shapes left out" in " ".join(report.notes)
    assert "13718 vertices where SMPL has 6890" in " ".join(report.notes)


def test_an_npz_holds_the_same(anny, content, tmp_path):
    path = tmp_path / "SMPL_MALE.npz"
    arrays = {**content, "J_regressor": content["J_regressor"].toarray()}
    np.savez(path, **arrays)
    loaded, _ = read_smpl(path)
    torch.testing.assert_close(loaded.joints, anny.joints, atol=1e-6, rtol=0)
    assert loaded.name == "smpl_male"


def test_an_npz_may_keep_the_regressor_as_an_object(small, template, tmp_path):
    path = tmp_path / "smpl.npz"
    np.savez(path, **{**small, "J_regressor": np.array(small["J_regressor"], dtype=object)})
    loaded, _ = read_smpl(path)
    torch.testing.assert_close(loaded.joints, template.joints, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "kind", [sparse.csc_matrix, sparse.csr_matrix, sparse.csc_array, np.asarray]
)
def test_the_regressor_may_be_any_matrix(small, template, tmp_path, kind):
    regressor = kind(small["J_regressor"].toarray())
    loaded, _ = read_smpl(written(small, tmp_path / "smpl.pkl", J_regressor=regressor))
    torch.testing.assert_close(loaded.joints, template.joints, atol=1e-6, rtol=0)


def test_new_pickles_are_read_as_well_as_old_ones(small, template, tmp_path):
    path = tmp_path / "smpl.pkl"
    path.write_bytes(pickle.dumps(small))
    torch.testing.assert_close(read_smpl(path)[0].joints, template.joints, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("default")  # of the other package's imports
def test_another_package_reads_the_same_file_and_poses_it_the_same(anny, content, tmp_path):
    pytest.importorskip("body_models")
    from body_models.smpl.numpy import SMPL

    shapes = 0.003 * np.random.default_rng(1).standard_normal((len(anny.vertices), 3, 207))
    content = {**content, "posedirs": shapes}
    path = write_smpl(content, tmp_path / "SMPL_NEUTRAL.pkl", chumpy=CHUMPY)
    other = SMPL(model_path=path)
    loaded, _ = read_smpl(path)
    parameters = loaded.rest_parameters(2)
    parameters.pose[1] = 0.4 * torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
    theirs = other.forward_vertices(
        parameters.pose.numpy(),
        pelvis_rotation=np.zeros((2, 3), np.float32),
        shape=np.zeros((2, 10), np.float32),
    )
    ours = skin(loaded, parameters)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-6)
    plain = skin(loaded, parameters, loaded.all_points())
    assert (ours - plain).norm(dim=-1)[1].max() > 0.01
    torch.testing.assert_close(ours[0], plain[0])


def test_pose_blend_shapes_are_kept_in_a_template_file(content, tmp_path):
    shapes = np.random.default_rng(1).standard_normal(content["posedirs"].shape)
    path = write_smpl({**content, "posedirs": shapes}, tmp_path / "SMPL_NEUTRAL.pkl")
    loaded, _ = read_smpl(path)
    without, _ = read_smpl(write_smpl(content, tmp_path / "SMPL_MALE.pkl"))
    assert without.pose_blendshapes is None
    assert loaded.fingerprint != without.fingerprint
    templates.save(loaded, tmp_path / "smpl.safetensors")
    again = templates.load(tmp_path / "smpl.safetensors")
    torch.testing.assert_close(again.pose_blendshapes, loaded.pose_blendshapes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shapes: shapes[:, :, :93], "not .*207"),
        (lambda shapes: np.full_like(shapes, np.nan), "NaN"),
    ],
)
def test_broken_pose_blend_shapes_are_refused(content, tmp_path, change, message):
    broken = {**content, "posedirs": change(content["posedirs"])}
    with pytest.raises(InputError, match=message):
        read_smpl(write_smpl(broken, tmp_path / "SMPL_NEUTRAL.pkl"))


# A mesh of SMPL's own topology


@pytest.fixture(scope="module")
def shaped_like_smpl(anny, shared) -> BodyTemplate:
    """SMPL's vertices and faces on Anny's surface, by the surface map of the test data."""
    table = np.load(shared / "densepose" / "smpl_to_anny.npz")
    faces = next(v for v in table.values() if v.ndim == 1 and v.dtype.kind in "iu")
    blend = next(
        v for v in table.values() if v.ndim == 2 and v.shape[1] == 3 and v.dtype.kind == "f"
    )
    points = anny.surface_points(
        torch.from_numpy(faces).long(), torch.from_numpy(blend).to(anny.vertices)
    )
    charts = scipy.io.loadmat(shared / "densepose" / "UV_Processed.mat")
    corners = charts["All_vertices"][0][charts["All_Faces"].astype(int) - 1].astype(int) - 1
    from dataclasses import replace

    return replace(
        anny, name="smpl-like", vertices=points.rest, weights=points.weights,
        faces=torch.from_numpy(corners), mirror=torch.arange(len(points.rest)),
    )  # fmt: skip


def test_smpls_own_vertices_mark_the_face_and_the_feet(shaped_like_smpl, anny, tmp_path):
    content = smpl_content(shaped_like_smpl, np.random.default_rng(0))
    loaded, report = read_smpl(write_smpl(content, tmp_path / "SMPL_NEUTRAL.pkl"))
    assert len(loaded.vertices) == 6890
    assert loaded.landmark_names == NAMES
    for name, vertex in VERTEX_IDS.items():
        row = NAMES.index(f"coco_{name}")
        assert torch.equal(loaded.landmarks.rest[row], loaded.vertices[vertex])
        assert (loaded.landmarks.rest[row] - anny.landmarks.rest[row]).norm() < 0.03, name
    knee = loaded.landmarks[[NAMES.index("coco_left_knee")]]
    assert torch.equal(knee.rest[0], loaded.joints[SEGMENTS.index("left_knee")])
    assert "its hips and neck lie higher than people mark" in " ".join(report.notes)


def test_its_mirror_exchanges_left_and_right(shaped_like_smpl, tmp_path):
    content = smpl_content(shaped_like_smpl, np.random.default_rng(0))
    loaded, _ = read_smpl(write_smpl(content, tmp_path / "SMPL_NEUTRAL.pkl"))
    image = loaded.vertices[loaded.mirror] * torch.tensor([-1.0, 1, 1])
    # SMPL's mesh is symmetric; its vertices on Anny's are to the table's accuracy.
    assert (image - loaded.vertices).norm(dim=1).median() < 0.005
    for name, vertex in VERTEX_IDS.items():
        other = VERTEX_IDS[mirrored_name(name)]
        assert (loaded.vertices[loaded.mirror[vertex]] - loaded.vertices[other]).norm() < 0.02, name


# Refusals


@pytest.mark.parametrize("field", ["v_template", "f", "weights", "kintree_table", "J_regressor"])
def test_a_missing_field_is_named(small, tmp_path, field):
    gone = {field: None} | ({"J": None} if field == "J_regressor" else {})
    with pytest.raises(InputError, match=rf"smpl\.pkl has no .*{field}"):
        read_smpl(written(small, tmp_path / "smpl.pkl", **gone))


def test_without_a_regressor_the_joints_in_the_file_do(small, template, tmp_path):
    loaded, report = read_smpl(written(small, tmp_path / "smpl.pkl", J_regressor=None))
    torch.testing.assert_close(loaded.joints, template.joints)
    assert "no J_regressor: joints from J" in report.notes


WRONG = {
    "its relatives": ({"kintree_table": np.zeros((2, 55), np.int64)}, "has 55 joints, SMPL has 24.*glTF"),
    "another tree": ({"kintree_table": np.zeros((2, 24), np.int64)}, "hang together in another way"),
    "a flat tree": ({"kintree_table": np.zeros(24)}, "kintree_table is"),
    "flat vertices": ({"v_template": np.zeros(12)}, "v_template is"),
    "fewer weights": ({"weights": np.ones((5, 24))}, "weights are"),
    "another regressor": ({"J_regressor": np.zeros((24, 7))}, "J_regressor is"),
    "NaN": ({"v_template": np.full((144, 3), np.nan)}, "144 vertices are NaN"),
    "faces too high": ({"f": np.full((4, 3), 999)}, "a face names vertex 999 of 144"),
    "negative weights": ({"weights": np.full((144, 24), -1.0)}, "negative or NaN"),
    "no weights": ({"weights": np.zeros((144, 24))}, "144 of 144 vertices are moved by no bone"),
    "words": ({"v_template": np.array(["a"] * 3)}, "v_template|damaged"),
    "flat": ({"v_template": np.zeros((144, 3))}, "tall in its own units|meet at"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_refused_in_one_line(small, tmp_path, case):
    changes, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        read_smpl(written(small, tmp_path / "smpl.pkl", **changes))
    assert "\n" not in str(caught.value)


def test_a_regressor_that_points_outside_itself_is_refused(small, tmp_path):
    broken = small["J_regressor"].copy()
    broken.indices = broken.indices.copy()
    broken.indices[0] = 10**6
    with pytest.raises(InputError, match=r"smpl\.pkl is damaged"):
        read_smpl(written(small, tmp_path / "smpl.pkl", J_regressor=broken))


def test_weights_that_do_not_sum_to_one_are_divided_and_said(small, template, tmp_path):
    loaded, report = read_smpl(
        written(small, tmp_path / "smpl.pkl", weights=small["weights"] * 0.5)
    )
    torch.testing.assert_close(loaded.weights, template.weights)
    assert "144 vertices do not sum to one (from 0.5 to 0.5)" in " ".join(report.notes)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"glTF", b"\x80\x02}q\x00.", b"\x80\x04K\x01."]
)
@pytest.mark.parametrize("suffix", [".pkl", ".npz"])
def test_other_files_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"smpl{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"wanted an SMPL body|refers to data outside"):
        read_smpl(path)


def test_a_pickle_that_wants_to_run_something_is_refused_by_name(small, tmp_path, capfd):
    class Trap:
        def __reduce__(self):
            return print, ("sprung",)

    path = tmp_path / "smpl.pkl"
    path.write_bytes(pickle.dumps({**small, "betas": Trap()}, protocol=2).replace(
        b"c__builtin__\nprint", b"cos\nsystem"))  # fmt: skip
    with pytest.raises(InputError, match=r"asks to import (os|posix)\.system"):
        read_smpl(path)
    assert capfd.readouterr().out == ""


def test_chumpy_arrays_that_contain_themselves_are_refused(small, tmp_path, monkeypatch):
    module = types.ModuleType("chumpy")
    module.Ch = type("Ch", (), {"__module__": "chumpy"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chumpy", module)
    endless = module.Ch()
    endless.a = endless
    path = tmp_path / "smpl.pkl"
    path.write_bytes(pickle.dumps({**small, "v_template": endless}, protocol=2))
    with pytest.raises(InputError, match="made of itself"):
        read_smpl(path)
