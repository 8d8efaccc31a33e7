import pytest
import torch

from deformlearn import anny_body
from deformlearn.errors import InputError
from deformlearn.landmarks import NAMES
from deformlearn.skeleton import PARENTS, SEGMENTS, mirrored_name

SWAP = [SEGMENTS.index(mirrored_name(name)) for name in SEGMENTS]
REFLECT = torch.tensor([-1.0, 1.0, 1.0])


def joint(template, name):
    return template.joints[SEGMENTS.index(name)]


def landmark(template, name):
    return template.landmarks.rest[template.landmark_names.index(name)]


def test_the_default_body_stands_upright_facing_forward_with_its_left_at_positive_x(anny):
    assert 1.6 < anny.height < 2.0
    assert joint(anny, "head")[1] > joint(anny, "pelvis")[1] > joint(anny, "left_ankle")[1]
    assert landmark(anny, "coco_nose")[2] > landmark(anny, "coco_left_ear")[2] + 0.05
    assert joint(anny, "left_foot")[2] > joint(anny, "left_ankle")[2] + 0.05
    for name in SEGMENTS:
        assert (joint(anny, name)[0] > 0) == name.startswith("left_")


def test_the_default_body_is_exactly_mirror_symmetric(anny):
    torch.testing.assert_close(anny.mirror[anny.mirror], torch.arange(len(anny.vertices)))
    assert torch.equal(anny.vertices[anny.mirror], anny.vertices * REFLECT)
    assert torch.equal(anny.joints[SWAP], anny.joints * REFLECT)
    torch.testing.assert_close(anny.weights[anny.mirror][:, SWAP], anny.weights)
    faces = {tuple(sorted(face)) for face in anny.faces.tolist()}
    assert all(tuple(sorted(face)) in faces for face in anny.mirror[anny.faces].tolist())


def test_every_vertex_is_shared_out_among_the_segments_and_every_segment_has_some(anny):
    torch.testing.assert_close(anny.weights.sum(1), torch.ones(len(anny.vertices)))
    assert (anny.weights >= 0).all()
    assert (anny.weights.amax(0) > 0.4).all()  # the collars share their skin
    assert anny.parents == PARENTS


def test_faces_wind_counterclockwise_seen_from_outside(anny):
    """A closed mesh with outward faces has a positive volume."""
    a, b, c = anny.vertices[anny.faces].double().unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    assert 0.03 < volume < 0.12


def test_all_fingers_belong_to_the_hand_and_all_toes_to_the_foot(anny):
    hand, foot = SEGMENTS.index("left_hand"), SEGMENTS.index("left_foot")
    fingertips = anny.vertices[:, 0].topk(20).indices
    assert (anny.weights[fingertips, hand] > 0.9).all()
    # Between the big and the small toe's tips every foremost low vertex is a toe.
    left = torch.where(anny.vertices[:, 0] > 0, anny.vertices[:, 2], -9.0)
    left = torch.where(anny.vertices[:, 1] < -0.9, left, -9.0)
    assert (anny.weights[left.topk(50).indices, foot] > 0.9).all()


def test_landmarks_are_mirror_images_with_weights_that_sum_to_one(anny):
    names = anny.landmark_names
    opposite = [names.index(mirrored_name(name)) for name in names]
    rest, weights = anny.landmarks.rest, anny.landmarks.weights
    torch.testing.assert_close(rest[opposite], rest * REFLECT)
    torch.testing.assert_close(weights[opposite][:, SWAP], weights)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(names)))


def test_the_head_top_is_the_highest_point_on_the_midline(anny):
    top = landmark(anny, "head_top")
    assert top[0] == 0
    assert top[1] == anny.vertices[:, 1].max()


@pytest.mark.parametrize("name", ["shoulder", "elbow", "wrist", "knee", "ankle"])
def test_annotated_limb_joints_are_near_the_skeletons_own(anny, name):
    distance = landmark(anny, f"coco_left_{name}") - joint(anny, f"left_{name}")
    assert distance.norm() < 0.04


def test_its_content_is_what_files_made_with_it_expect(anny):
    """Correspondences and estimates name this fingerprint: a change makes every old file useless."""
    assert anny.fingerprint == "a035400de08e"


def test_it_has_every_landmark_with_toes_before_heels(anny):
    assert anny.landmark_names == NAMES
    for side in ("left", "right"):
        big, small, heel = (
            landmark(anny, f"coco_{side}_{part}") for part in ("big_toe", "small_toe", "heel")
        )
        assert big[2] > small[2] > heel[2] + 0.15
        assert abs(big[0]) < abs(small[0])


def test_middles_lie_between_the_annotated_sides(anny):
    for name, part in (("coco_neck", "shoulder"), ("coco_mid_hip", "hip")):
        sides = landmark(anny, f"coco_left_{part}") + landmark(anny, f"coco_right_{part}")
        torch.testing.assert_close(landmark(anny, name), sides / 2)


def test_without_the_package_anny_the_message_says_so(monkeypatch):
    def absent(name):
        raise anny_body.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(anny_body.metadata, "version", absent)
    with pytest.raises(InputError, match="pip install anny"):
        anny_body.anny_version()
