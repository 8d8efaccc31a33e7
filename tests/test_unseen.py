"""Parts that nobody saw: laws, a slow twin, words, and the flags of fits of a data set."""

from dataclasses import replace

import pytest
import torch

from deformlearn.config import RegistrationConfig
from deformlearn.data.estimates import read_estimates
from deformlearn.data.shards import DatasetInfo, write_info, write_rows
from deformlearn.fitting import fit_dataset
from deformlearn.skeleton import JOINT_SETS, SEGMENTS, mirrored_name
from deformlearn.unseen import PARTS, unseen_parts, with_unseen
from tiny_runs import planted_rows

LEFT_LEG = [SEGMENTS.index(f"left_{joint}") for joint in ("hip", "knee", "ankle", "foot")]
NOTHING, EVERYTHING = torch.zeros(1, len(PARTS)) > 0, torch.ones(1, len(PARTS)) > 0


@pytest.fixture
def seen(template, planted):
    return planted(template, 6)[1]


def owners(template, seen):
    """The segment that moves each correspondence's face most."""
    return template.weights[template.faces].sum(1).argmax(1)[seen.faces]


def blind(seen, points=(), keypoints=()):
    """The same without some correspondences (a mask) and key points (names)."""
    weights = seen.keypoint_weights.clone()
    for name in keypoints:
        weights[:, seen.joint_set.landmarks.index(name)] = 0
    if len(points):
        seen = replace(seen, point_weights=torch.where(points, 0.0, seen.point_weights))
    return replace(seen, keypoint_weights=weights)


def leg_hidden(template, seen):
    on_leg = torch.isin(owners(template, seen), torch.tensor(LEFT_LEG))
    return blind(seen, on_leg, ("left_knee", "left_ankle", "left_foot"))


def test_of_a_whole_body_nothing_is_unseen(template, seen):
    assert not unseen_parts(template, seen).any()


def test_a_leg_without_points_and_key_points_is_unseen(template, seen):
    found = unseen_parts(template, leg_hidden(template, seen))
    assert (found == torch.tensor(["left leg" in part for part in PARTS])).all()


@pytest.mark.parametrize("kept", ["points", "keypoints"])
def test_either_of_the_two_is_enough(template, seen, kept):
    hidden = leg_hidden(template, seen)
    weights = "point_weights" if kept == "points" else "keypoint_weights"
    some = replace(hidden, **{weights: getattr(seen, weights)})
    if kept == "points":  # every person has points on both halves of the leg, but maybe on one only
        on_leg = owners(template, seen)
        both = torch.isin(on_leg, torch.tensor(LEFT_LEG[:1])).any(1)
        both &= torch.isin(on_leg, torch.tensor(LEFT_LEG[1:])).any(1)
        assert both.any()
        assert not unseen_parts(template, some)[both].any()
    else:
        assert not unseen_parts(template, some).any()


def test_a_limb_that_ends_nowhere_is_unseen(template, seen):
    """A knee says where a lower leg begins, not where it goes."""
    found = unseen_parts(
        template, blind(seen, seen.points[..., 0] < 9, ("left_ankle", "left_foot"))
    )
    assert [part for part, bad in zip(PARTS, found[0], strict=True) if bad] == ["lower left leg"]


@pytest.mark.parametrize("joints", sorted(JOINT_SETS))
def test_all_key_points_of_any_joint_set_show_the_whole_body(template, seen, joints):
    count = len(JOINT_SETS[joints].landmarks)
    alone = replace(
        seen, keypoints=torch.zeros(6, count, 2), keypoint_weights=torch.ones(6, count),
        depths=torch.zeros(6, count), depth_weights=torch.zeros(6, count),
        point_weights=torch.zeros_like(seen.point_weights), joints=joints,
    )  # fmt: skip
    assert not unseen_parts(template, alone).any()


def test_left_and_right_are_told_apart_alike(template, seen):
    names = ("left_knee", "right_wrist", "right_hand", "head", "head_top")
    bare = replace(seen, point_weights=torch.zeros_like(seen.point_weights))
    found = unseen_parts(template, blind(bare, keypoints=names))
    other = unseen_parts(template, blind(bare, keypoints=[mirrored_name(name) for name in names]))
    order = [PARTS.index(_other_side(part)) for part in PARTS]
    assert found.any()
    assert (found[:, order] == other).all()


def _other_side(part):
    there = part.replace("left", "right")
    return there if there != part else part.replace("right", "left")


def test_points_are_counted_where_their_faces_are(template, seen):
    """Against a loop over people and points."""
    random = torch.Generator().manual_seed(0)
    kept = torch.rand(seen.point_weights.shape, generator=random) < 0.1
    some = replace(
        seen, point_weights=kept.float(), keypoint_weights=torch.zeros_like(seen.keypoint_weights)
    )
    found, of_segment = unseen_parts(template, some), owners(template, seen)
    parts = {"head": ("head",)}
    for side in ("left", "right"):
        parts[f"upper {side} arm"] = (f"{side}_shoulder",)
        parts[f"lower {side} arm"] = (f"{side}_elbow", f"{side}_wrist", f"{side}_hand")
        parts[f"upper {side} leg"] = (f"{side}_hip",)
        parts[f"lower {side} leg"] = (f"{side}_knee", f"{side}_ankle", f"{side}_foot")
    of = {segment: part for part, segments in parts.items() for segment in segments}
    for row in range(6):
        there = {of.get(SEGMENTS[of_segment[row, n]], "trunk") for n in kept[row].nonzero()[:, 0]}
        assert [bool(one) for one in found[row]] == [part not in there for part in PARTS]


def some(*parts):
    return torch.tensor([[part in parts for part in PARTS]])


@pytest.mark.parametrize(
    ("flag", "unseen", "wanted"),
    [
        ("ok", NOTHING, "ok"),
        ("not converged", NOTHING, "not converged"),
        ("nothing of it was seen", EVERYTHING, "nothing of it was seen"),
        ("ok", some("head"), "head not seen"),
        ("ok", some("upper left leg", "lower left leg"), "left leg not seen"),
        (
            "not converged",
            some("lower left leg", "upper right arm", "lower right arm"),
            "not converged; lower left leg not seen; right arm not seen",
        ),
    ],
)
def test_what_is_unseen_stands_beside_other_doubts(flag, unseen, wanted):
    assert with_unseen([flag], unseen) == [wanted]


def test_fits_of_a_data_set_say_what_of_whom_was_not_seen(template, seen, tmp_path):
    rows = planted_rows(seen)
    names = JOINT_SETS["skeleton25"].names
    lost = [names.index(name) for name in ("left_wrist", "left_hand")]
    weights = rows[2].keypoint_weights.copy()
    weights[lost] = 0
    owner = template.weights[template.faces].sum(1).argmax(1).numpy()[rows[2].faces]
    hand = [SEGMENTS.index(f"left_{joint}") for joint in ("elbow", "wrist", "hand")]
    point_weights = rows[2].point_weights.copy()
    point_weights[[one in hand for one in owner]] = 0
    rows[2] = replace(rows[2], keypoint_weights=weights, point_weights=point_weights)
    write_info(tmp_path / "data", DatasetInfo("octahedra", template.fingerprint, "skeleton25"))
    write_rows(tmp_path / "data", "train", 0, rows)
    found = fit_dataset(
        tmp_path / "data", tmp_path / "out", "train", template, RegistrationConfig()
    )
    flags = read_estimates(tmp_path / "out" / "estimates.parquet", template).flags
    assert flags[2].split("; ")[-1] == "lower left arm not seen"
    assert not any("not seen" in flag for row, flag in enumerate(flags) if row != 2)
    assert found.flags["lower left arm not seen"] == 1
