import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deformlearn.data.densepose_annotations import (
    FINE_TO_COARSE,
    DensePoseCoco,
    PointRules,
    mask_agreement,
    masks_to_labels,
)
from deformlearn.data.rle import decode_mask
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set
from mutations import broken_bytes, broken_json
from readers import everyone, read_damaged

BOX = [20.5, 10.25, 51.2, 64.0]
"""A fifth and a quarter of a pixel to 1/256 of its sides."""


def runs(mask):
    """Run lengths of a mask, column by column, from background on."""
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges])).tolist()


def rle(mask):
    """A mask as COCO's tools write it, by their own hand."""
    tools = pytest.importorskip("pycocotools.mask")
    coded = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def stripes():
    """14 masks: mask k covers rows 18 (k - 1) .. 18 k of the frame."""
    masks = np.zeros((14, 256, 256), np.uint8)
    for number in range(14):
        masks[number, 18 * number : 18 * (number + 1)] = 1
    return masks


class DensePose:
    """densepose_coco_2014_*.json with one person, every point in the middle of its part's stripe."""

    def __init__(self, folder, name="densepose_coco_2014_train.json"):
        self.path, self.images = folder / name, folder / "train2014"
        self.images.mkdir()
        file_name = "COCO_train2014_000000000001.jpg"
        Image.new("RGB", (100, 80)).save(self.images / file_name)
        part = [float(1 + number % 24) for number in range(48)]
        coarse = FINE_TO_COARSE[np.array(part, int)]
        self.person = {
            "id": 7,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "area": 900.0,
            "bbox": list(BOX),
            "segmentation": [[20.5, 10.25, 71.7, 10.25, 71.7, 74.25]],
            "keypoints": [n for joint in range(17) for n in (30 + joint, 20 + joint, 2)],
            "num_keypoints": 17,
            "dp_I": part,
            "dp_U": [0.25] * 48,
            "dp_V": [number / 48 for number in range(48)],
            "dp_x": [float(5 * number) for number in range(48)],
            "dp_y": [float(18 * (number - 1) + 9) for number in coarse],
            "dp_masks": [{"size": [256, 256], "counts": runs(mask)} for mask in stripes()],
        }
        names = list(joint_set("coco17").names)
        self.content = {
            "info": {},
            "licenses": [],
            "images": [{"id": 1, "file_name": file_name, "width": 100, "height": 80}],
            "annotations": [self.person],
            "categories": [
                {"id": 1, "name": "person", "supercategory": "person", "keypoints": names}
            ],
        }

    def source(self, **options):
        self.path.write_text(json.dumps(self.content))
        return DensePoseCoco(self.path, self.images, PointRules(**options))

    def people(self, **options):
        return list(everyone(self.source(**options)))


@pytest.fixture
def coco(tmp_path):
    return DensePose(tmp_path)


def test_points_are_parts_of_the_box_and_key_points_are_pixels(coco):
    (person,) = coco.people()
    assert person.key == "COCO_train2014_000000000001-7"
    assert person.box == pytest.approx(tuple(BOX))
    np.testing.assert_allclose(person.dense.pixels[0], [20.5, 10.25 + 9 / 256 * 64])
    np.testing.assert_allclose(person.dense.pixels[10, 0], 20.5 + 50 / 5)
    assert person.dense.part[:3].tolist() == [1, 2, 3]
    np.testing.assert_allclose(person.dense.uv[12], [0.25, 0.25])
    assert (person.dense.weights == 1).all()
    np.testing.assert_allclose(person.keypoints[0], [30.5, 20.5])
    assert person.notes == ()


def test_the_notebooks_scale_puts_points_a_255th_farther(coco):
    (by_256,), (by_255,) = coco.people(), coco.people(scale=255)
    corner = np.array(BOX[:2])
    np.testing.assert_allclose(
        (by_255.dense.pixels - corner) * 255, (by_256.dense.pixels - corner) * 256
    )
    assert np.abs(by_255.dense.pixels - by_256.dense.pixels).max() < 0.004 * max(BOX[2:])


def test_the_images_may_be_given_by_their_parent(coco):
    source = coco.source()
    parent = DensePoseCoco(source.annotations, coco.images.parent)
    ((one,), (other,)) = everyone(source), everyone(parent)
    assert one.image == other.image


def test_a_box_that_is_cut_moves_no_point_and_points_beyond_the_image_are_left_out(coco):
    coco.person["bbox"] = [-20, 10, 100, 64]
    (person,) = coco.people()
    assert person.box == (0, 10, 80, 64)
    # every fifth of 256 parts of 100 px, from -20 on: ten lie more than a pixel outside
    np.testing.assert_allclose(person.dense.pixels[0, 0], -20 + 10 * 5 * 100 / 256)
    assert person.notes == (
        "its box reached 20 px beyond the image and was cut",
        "10 of 48 DensePose points left out: outside the image",
    )


@pytest.mark.parametrize(
    ("field", "value", "note"),
    [
        ("dp_I", 0.0, "of no part 1..24"),
        ("dp_I", 25.0, "of no part 1..24"),
        ("dp_I", 1.5, "of no part 1..24"),
        ("dp_U", -0.1, "with U or V outside [0, 1]"),
        ("dp_V", 1.1, "with U or V outside [0, 1]"),
        ("dp_x", 300.0, "outside the box"),
        ("dp_y", -50.0, "outside the box"),
        ("dp_x", float("nan"), "not finite"),
        ("dp_U", float("inf"), "not finite"),
        ("dp_U", None, "not finite"),
    ],
)
def test_a_bad_point_is_left_out_and_said_and_the_good_stay(coco, field, value, note):
    coco.person[field][5] = value
    (person,) = coco.people()
    assert len(person.dense.part) == len(person.dense.pixels) == 47
    assert person.notes == (f"1 of 48 DensePose points left out: {note}",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dp_x": None}, "has no DensePose annotation: no dp_x"),
        ({"dp_x": []}, "has no DensePose annotation: no dp_x"),
        ({"dp_y": None}, "has no list dp_y"),
        ({"dp_U": [0.1] * 47}, "differ in length: dp_x 48, dp_y 48, dp_I 48, dp_U 47, dp_V 48"),
        ({"dp_V": ["a"] * 48}, "dp_V holds something that is no number"),
        ({"dp_V": [[0.1]] * 48}, "dp_V is not a plain list"),
        ({"dp_I": [30.0] * 48}, "0 DensePose points are sound, 10 are needed; 48 of 48"),
        ({"bbox": None}, "its box None has no extent"),
        ({"bbox": [1, 1, 0, 5]}, "has no extent"),
        ({"bbox": [500, 1, 5, 5]}, "lies outside its image"),
        ({"iscrowd": 1}, "marks a crowd"),
        ({"keypoints": [1, 2]}, "has 2 numbers for its key points"),
        ({"keypoints": [900, 2, 2] * 17}, "a key point lies outside its image"),
        (
            {"dp_vertex": [1, 2], "ref_model": "smpl_27554"},
            "is labelled with vertices (dp_vertex) of the mesh 'smpl_27554', whose order is not public",
        ),
    ],
)
def test_a_bad_annotation_is_left_out_with_its_reason(coco, changes, reason):
    coco.content["annotations"].append({**coco.person, "id": 8, **changes})
    good, rejected = coco.people()
    assert good.key.endswith("-7")
    assert reason in rejected.reason
    assert rejected.where == f"{coco.path}: annotation 8"


def test_people_without_key_points_have_all_missing(coco):
    del coco.person["keypoints"]
    (person,) = coco.people()
    assert person.keypoints.shape == (17, 2)
    assert not person.keypoint_weights.any()


def test_people_with_key_points_alone_are_taken_when_asked_for(coco):
    for name in ("dp_I", "dp_U", "dp_V", "dp_x", "dp_y", "dp_masks"):
        del coco.person[name]
    (rejected,) = coco.people()
    assert "has no DensePose annotation" in rejected.reason
    (person,) = coco.people(keypoints_only=True)
    assert person.dense is None
    assert person.keypoint_weights.all()
    coco.person["keypoints"] = None
    (rejected,) = coco.people(keypoints_only=True)
    assert rejected.reason == "has neither DensePose points nor key points"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("densepose_coco_2014_minival.json", 2),
        ("densepose_valminusminival2014.json", 2),
        ("densepose_train2014.json", 1),
    ],
)
def test_people_listed_twice_are_kept_in_minival_only(tmp_path, name, kept):
    coco = DensePose(tmp_path, name)
    coco.content["annotations"].append(dict(coco.person))
    found = coco.people()
    keys = [one.key for one in found[:kept]]
    assert keys == ["COCO_train2014_000000000001-7", "COCO_train2014_000000000001-7+2"][:kept]
    assert [one.reason for one in found[kept:]] == ["its id occurs more than once"] * (2 - kept)


def test_points_off_the_mask_of_their_part_tell_of_a_wrong_reading(coco):
    assert len(coco.people(min_agreement=1.0)) == 1
    assert mask_agreement(coco.person, np.ones(48, bool)) == 1
    coco.person["dp_y"] = coco.person["dp_y"][::-1]
    (rejected,) = coco.people(min_agreement=0.5)
    assert "% of its points lie on the mask of their part, 50 % are needed" in rejected.reason
    assert len(coco.people()) == 1
    del coco.person["dp_masks"]
    (rejected,) = coco.people(min_agreement=0.5)
    assert "has no dp_masks" in rejected.reason


def test_points_left_out_make_no_difference_to_the_agreement_of_the_others(coco):
    coco.person["dp_U"][0] = -3.0
    (person,) = coco.people(min_agreement=1.0)
    assert len(person.dense.part) == 47


def test_later_masks_are_drawn_over_earlier_ones_and_empty_ones_are_no_part():
    masks = stripes()
    masks[1] = 1
    coded = [{"size": [256, 256], "counts": runs(mask)} for mask in masks]
    coded[4] = []
    labels = masks_to_labels(coded)
    assert labels[5, 0] == 2  # over the torso
    assert labels[2 * 18 + 1, 7] == 3
    assert labels[4 * 18 + 1, 7] == 2  # mask 5 is absent
    assert labels[255, 255] == 2


def test_a_single_mask_is_the_whole_person():
    mask = stripes()[3]
    single = {"size": [256, 256], "counts": runs(mask)}
    np.testing.assert_array_equal(masks_to_labels(single), mask)
    points = {"dp_x": [1.0, 1.0], "dp_y": [60.0, 200.0], "dp_I": [9, 9], "dp_masks": single}
    assert mask_agreement(points, np.array([True, True])) == 0.5
    assert mask_agreement(points, np.array([True, False])) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_masks_decode_as_coco_tools_do(height, width, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    np.testing.assert_array_equal(decode_mask(rle(mask)), mask)
    np.testing.assert_array_equal(
        decode_mask({"size": [height, width], "counts": runs(mask)}), mask
    )


def test_a_large_mask_decodes_as_coco_tools_do():
    mask = np.zeros((256, 256), bool)
    mask[30:220, 100:180] = True
    np.testing.assert_array_equal(decode_mask(rle(mask)), mask)


@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (None, "is not run-length encoded"),
        ([], "is not run-length encoded"),
        ({"counts": "01"}, "is not run-length encoded"),
        ({"size": [True, 2], "counts": [2]}, "is not run-length encoded"),
        ({"size": [0, 2], "counts": []}, "is not run-length encoded"),
        ({"size": [10**6, 10**6], "counts": [10**12]}, "is no mask of a person"),
        ({"size": [2, 2]}, "neither its text nor a list"),
        ({"size": [2, 2], "counts": [5, -1]}, "neither its text nor a list"),
        ({"size": [2, 2], "counts": [1.0, 3.0]}, "neither its text nor a list"),
        ({"size": [2, 2], "counts": [1, 2]}, "runs cover 3 pixels, its size is 2 x 2"),
        ({"size": [2, 2], "counts": "P"}, "end in the middle of a number"),
        ({"size": [2, 2], "counts": "\u00e9"}, "not text as COCO's tools write it"),
        ({"size": [2, 2], "counts": "oooooooooooo"}, "not text as COCO's tools write it"),
    ],
)
def test_crafted_masks_are_refused(coded, message):
    with pytest.raises(InputError, match=message):
        decode_mask(coded)


def test_masks_of_another_frame_or_number_are_refused():
    with pytest.raises(InputError, match="wanted 256 x 256"):
        masks_to_labels([{"size": [2, 2], "counts": [4]}])
    with pytest.raises(InputError, match="wanted 14 run-length masks"):
        masks_to_labels([[]] * 3)


def test_a_file_without_labels_is_refused(coco):
    coco.content["annotations"] = []
    with pytest.raises(InputError, match="has no annotations"):
        next(coco.source().entries())


def test_the_card_says_the_scale(coco):
    said = coco.source(scale=255).description
    assert said == "DensePose annotations of densepose_coco_2014_train.json, scaled by 255"
    assert coco.source().joints == "coco17"


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_give_an_error_or_sound_people(coco, seed):
    source = coco.source(min_points=1, min_agreement=0.1, keypoints_only=True)
    content = coco.path.read_bytes()
    read_damaged(source, coco.path, broken_bytes(content, seed))
    read_damaged(source, coco.path, broken_json(content, seed))
