import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deformlearn.data import shards
from deformlearn.data import truth as truths
from deformlearn.data.shards import DatasetInfo, Row
from deformlearn.data.truth import TruthRow
from deformlearn.errors import InputError
from deformlearn.files import place
from disks import spoil_column


def a_row(key="a", points=4, **changes):
    g = np.random.default_rng(len(key))
    barycentric = g.dirichlet(np.ones(3), points)
    row = Row(
        key=key,
        crop=(100.0, 60.0, 50.0),
        points=g.uniform(60, 100, (points, 2)),
        faces=np.arange(points),
        barycentric=barycentric,
        point_weights=np.ones(points),
        keypoints=g.uniform(60, 100, (17, 2)),
        keypoint_weights=np.ones(17),
        subject="S1",
        action="Walking",
        camera="left",
        frame=3,
    )
    return replace(row, **changes)


@pytest.fixture
def info(template):
    return DatasetInfo(template.name, template.fingerprint, "h36m17", ("pelvis", "head_top"))


@pytest.fixture
def folder(tmp_path, info):
    shards.write_info(tmp_path, info)
    return tmp_path


def test_rows_come_back_in_image_units_and_short_lists_are_padding(folder, template):
    rows = [a_row("a", 4), a_row("bb", 7)]
    shards.write_rows(folder, "train", 0, rows)
    people = shards.read_people(folder, "train", template)
    assert people.keys == ["a", "bb"]
    assert people.actions == ["Walking"] * 2
    assert people.observations.point_weights.tolist() == [[1] * 4 + [0] * 3, [1] * 7]
    pixels = people.crop.to_pixels(people.observations.points)[1]
    np.testing.assert_allclose(pixels, rows[1].points, atol=1e-4)
    expected = (torch.tensor(rows[0].keypoints) - torch.tensor([100.0, 60.0])) / 50
    torch.testing.assert_close(people.observations.keypoints[0], expected.float())
    np.testing.assert_allclose(people.observations.barycentric[1], rows[1].barycentric, atol=1e-6)
    assert people.rejected == []


def test_people_of_rows_are_those_that_a_file_would_give(folder, info, template):
    rows = [a_row("a", 4), a_row("bb", 7)]
    shards.write_rows(folder, "train", 0, rows)
    for a, b in zip(
        shards.people_of(rows, info).observations.tensors(),
        shards.read_people(folder, "train", template).observations.tensors(),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_several_shards_are_one_split_and_splits_are_told_apart(folder):
    for number, key in enumerate(("a", "b")):
        shards.write_rows(folder, "train", number, [a_row(key)])
    shards.write_rows(folder, "val", 0, [a_row("c")])
    assert shards.splits(folder) == ["train", "val"]
    assert shards.read_people(folder, "train").keys == ["a", "b"]


def test_truth_is_apart_and_follows_the_keys(folder):
    rows = [
        TruthRow(k, np.full((2, 3), v), np.full((5, 3), v)) for k, v in (("a", 1.25), ("b", -2.5))
    ]
    truths.write_truth(folder, "test", 0, rows)
    truth = truths.read_truth(folder, "test", ["b", "a"])
    assert truth.landmarks_mm[:, 0, 0].tolist() == [-2.5, 1.25]
    torch.testing.assert_close(
        truth.vertices_mm[:, 0, 0], torch.tensor([-2.5, 1.2]), atol=0.06, rtol=0
    )
    columns = pq.read_schema(folder / "truth" / "test-00000.parquet").names
    assert not set(columns) & set(shards.OBSERVATION_SCHEMA.names) - {"key"}
    with pytest.raises(InputError, match="no truth for 1 people"):
        truths.read_truth(folder, "test", ["a", "z"])


def test_truth_without_meshes_has_none(folder):
    truths.write_truth(folder, "train", 0, [TruthRow("a", np.zeros((2, 3)))])
    assert truths.read_truth(folder, "train").vertices_mm is None


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (TruthRow("a", np.zeros((2, 3))), "the truth of 'a' twice in 'test'"),
        (TruthRow("b", np.zeros((1, 3))), "landmarks_mm must hold the x, y, z of the 2 landmarks"),
        (TruthRow("b", np.full((2, 3), np.nan)), "landmarks_mm is NaN or infinite"),
        (TruthRow("b", np.zeros((2, 3)), np.zeros((4, 3))), "as many vertices as others have"),
    ],
)
def test_truth_that_is_not_whole_is_refused_and_listed(folder, second, reason):
    first = TruthRow("a", np.zeros((2, 3)), np.zeros((5, 3)))
    truths.write_truth(folder, "test", 0, [first])
    truths.write_truth(folder, "test", 1, [second])
    with pytest.raises(InputError, match=reason):
        truths.read_truth(folder, "test")
    (bad,) = truths.unusable_truth(folder, "test", ["a", "b"])
    assert reason in bad.reason
    if second.key == "b":  # what nobody asks for stops nobody
        assert truths.read_truth(folder, "test", ["a"]).keys == ["a"]


def test_a_split_has_no_truth_by_the_name_of_another(folder):
    truths.write_truth(folder, "train-more", 0, [TruthRow("a", np.zeros((2, 3)))])
    assert not truths.has_truth(folder, "train")


BAD = {
    "point_x is NaN or infinite": {"points": np.full((4, 2), np.nan)},
    "keypoint_y is NaN or infinite": {"keypoints": np.array([[1, np.inf]] * 17)},
    "point_face must be a face": {"faces": np.array([0, 1, 2, 100000])},
    "point_u is no barycentric coordinate": {"barycentric": np.array([[1.5, -0.5, 0]] * 4)},
    "point_weight is negative": {"point_weights": np.array([1, 1, 1, -1.0])},
    "nothing was seen": {"point_weights": np.zeros(4), "keypoint_weights": np.zeros(17)},
    "too little was seen": {"keypoint_weights": np.zeros(17)},
    "crop has no size": {"crop": (1.0, 1.0, 0.0)},
    "crop is not finite": {"crop": (np.nan, 1.0, 2.0)},
    "must hold the 17 key points": {"keypoints": np.zeros((5, 2)), "keypoint_weights": np.ones(5)},
    "point_weight and point_x differ in length": {"point_weights": np.ones(3)},
    "no key": {"key": ""},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_row_is_left_out_with_its_reason_and_the_good_go_on(folder, template, reason):
    shards.write_rows(
        folder, "train", 0, [a_row("good"), replace(a_row("bad"), **BAD[reason]), a_row("also")]
    )
    people = shards.read_people(folder, "train", template)
    assert people.keys == ["good", "also"]
    assert len(people.rejected) == 1
    assert reason in people.rejected[0].reason
    assert "train-00000.parquet row 1" in people.rejected[0].where


def with_values(path, name, values):
    """The shard, with other values in a column."""
    table = pq.read_table(path)
    place = table.column_names.index(name)
    column = pa.array(values, table.schema.field(name).type)
    pq.write_table(table.set_column(place, name, column), path)


@pytest.mark.parametrize("name", ["point_face", "point_x", "point_weight", "keypoint_x"])
def test_a_null_among_the_numbers_of_a_row_costs_that_row_alone(folder, template, name):
    path = shards.write_rows(folder, "train", 0, [a_row("good"), a_row("bad"), a_row("also")])
    values = pq.read_table(path)[name].to_pylist()
    values[1][2] = None
    with_values(path, name, values)
    people = shards.read_people(folder, "train", template)
    assert people.keys == ["good", "also"]
    assert [one.reason for one in people.rejected] == [f"{name} holds a null"]


def test_a_key_that_stands_twice_counts_once(folder, template):
    shards.write_rows(folder, "train", 0, [a_row("a"), a_row("a")])
    people = shards.read_people(folder, "train", template)
    assert people.keys == ["a"]
    assert "twice" in people.rejected[0].reason


def test_no_points_at_all_is_fine_where_key_points_are(folder, template):
    shards.write_rows(folder, "train", 0, [a_row("a", points=0)])
    people = shards.read_people(folder, "train", template)
    assert people.observations.point_weights.sum() == 0


def test_a_truncated_shard_is_named_and_the_others_are_read(folder, template):
    shards.write_rows(folder, "train", 0, [a_row("a")])
    broken = shards.write_rows(folder, "train", 1, [a_row("b")])
    broken.write_bytes(broken.read_bytes()[:200])
    people = shards.read_people(folder, "train", template)
    assert people.keys == ["a"]
    assert people.rejected[0].where == "train-00001.parquet"
    assert "not a whole Parquet shard" in people.rejected[0].reason
    assert [key for key, _, _ in shards.read_images(folder, "train")] == ["a"]


def test_a_shard_of_which_a_disk_has_changed_eight_bytes_is_named(folder, template):
    shards.write_rows(folder, "train", 0, [a_row("a")])
    changed = shards.write_rows(folder, "train", 1, [a_row("b")])
    known = shards.fingerprint(folder, "train")
    spoil_column(changed, "point_x")
    assert shards.fingerprint(folder, "train") == known, "only reading can tell"
    people = shards.read_people(folder, "train", template)
    assert people.keys == ["a"]
    assert people.rejected[0].where == "train-00001.parquet"
    assert "not a whole Parquet shard" in people.rejected[0].reason


def test_a_changed_bit_costs_no_image_that_can_be_read_and_a_broken_page_is_named(folder):
    shard = shards.write_rows(folder, "train", 0, [a_row(key, image=b"x") for key in "abcd"])
    spoil_column(shard, "point_x")  # of other columns
    assert [key for key, _, _ in shards.read_images(folder, "train")] == list("abcd")
    spoil_column(shard, "key")
    told = []
    assert list(shards.read_images(folder, "train", unreadable=told)) == []
    assert str(shard) in told[0]
    assert "not a whole Parquet shard" in told[0]


def test_only_the_wanted_images_are_given(folder):
    shards.write_rows(folder, "train", 0, [a_row("a", image=b"1"), a_row("b", image_path="b.jpg")])
    assert list(shards.read_images(folder, "train")) == [("a", b"1", ""), ("b", None, "b.jpg")]
    assert [key for key, _, _ in shards.read_images(folder, "train", ["b"])] == ["b"]


def test_a_split_is_not_mistaken_for_one_whose_name_begins_alike(folder):
    shards.write_rows(folder, "train", 0, [a_row("a")])
    shards.write_rows(folder, "train-extra", 0, [a_row("b")])
    assert shards.splits(folder) == ["train", "train-extra"]
    assert shards.read_people(folder, "train").keys == ["a"]


def test_other_writers_types_are_welcome(folder, template):
    rows = [a_row("a", 4), a_row("bb", 7)]
    path = shards.write_rows(folder, "train", 0, rows)
    wanted = shards.read_people(folder, "train", template)
    wide = {pa.float32(): pa.float64(), pa.int32(): pa.int64(), pa.string(): pa.large_string()}
    table = pq.read_table(path)
    fields = []
    for field in table.schema:
        if pa.types.is_list(field.type):
            fields.append((field.name, pa.large_list(wide[field.type.value_type])))
        else:
            fields.append((field.name, wide.get(field.type, field.type)))
    pq.write_table(table.cast(pa.schema(fields)), path)
    people = shards.read_people(folder, "train", template)
    assert people.keys == wanted.keys
    for a, b in zip(people.observations.tensors(), wanted.observations.tensors(), strict=True):
        assert torch.equal(a, b)


def test_a_shard_without_a_column_is_named(folder):
    path = shards.write_rows(folder, "train", 0, [a_row("a")])
    shards.write_rows(folder, "train", 1, [a_row("b")])
    pq.write_table(pq.read_table(path).drop_columns(["point_u"]), path)
    people = shards.read_people(folder, "train")
    assert people.keys == ["b"]
    assert "it has no column point_u" in people.rejected[0].reason


def test_a_data_set_may_lie_in_an_object_store(info, template):
    folder = place("memory://shards/set")
    shards.write_info(folder, info)
    shards.write_rows(folder, "train", 0, [a_row("a", image=b"1"), a_row("b", image_path="b.jpg")])
    truth = [TruthRow(key, np.full((2, 3), 1.0)) for key in "ab"]
    truths.write_truth(folder, "train", 0, truth)
    assert shards.splits(folder) == ["train"]
    assert shards.read_people(folder, "train", template).keys == ["a", "b"]
    assert list(shards.read_images(folder, "train")) == [("a", b"1", ""), ("b", None, "b.jpg")]
    assert truths.read_truth(folder, "train", ["b"]).keys == ["b"]
    with pytest.raises(InputError, match=r"memory://shards/none is not a data set"):
        shards.read_people(place("memory://shards/none"), "train")
    with pytest.raises(InputError, match="no truth for the split 'test'"):
        truths.read_truth(folder, "test")


def test_the_fingerprint_knows_a_shard_from_every_other_version(folder):
    path = shards.write_rows(folder, "train", 0, [a_row("a"), a_row("b")])
    shards.write_rows(folder, "train", 1, [a_row("c")])
    shards.write_rows(folder, "val", 0, [a_row("d")])
    before = shards.fingerprint(folder, "train")
    assert list(before) == ["train-00000.parquet", "train-00001.parquet"]
    assert before[path.name]["rows"] == 2
    assert before[path.name]["bytes"] == path.stat().st_size
    assert shards.fingerprint(folder, "train") == before
    json.dumps(before)
    shards.write_rows(folder, "train", 0, [a_row("a"), a_row("b", camera="right")])
    after = shards.fingerprint(folder, "train")
    assert after[path.name] != before[path.name]
    assert after["train-00001.parquet"] == before["train-00001.parquet"]
    path.write_bytes(b"PAR1")
    assert shards.fingerprint(folder, "train")[path.name]["rows"] is None


def test_refusals_say_what_was_wanted(folder, template, tmp_path):
    with pytest.raises(InputError, match=r"no dataset\.json"):
        shards.read_people(tmp_path / "nothing", "train")
    with pytest.raises(InputError, match="it has no split at all"):
        shards.read_people(folder, "train")
    shards.write_rows(folder, "val", 0, [a_row("a", point_weights=np.full(4, np.nan))])
    with pytest.raises(InputError, match="no usable row"):
        shards.read_people(folder, "val")
    with pytest.raises(InputError, match="it has val"):
        shards.read_people(folder, "test")
    with pytest.raises(InputError, match="was made for the template 'octahedra'"):
        shards.read_people(
            folder, "val", replace(template, name="other", vertices=2 * template.vertices)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99"),
        ({"joints": "what"}, "unknown joint set"),
        ({"extra": 1}, "not a data set description"),
        ({"joints": []}, r"not a data set description: joints must be text, not \[\]"),
        ({"template": None}, "template must be text, not None"),
        ({"landmarks": "head"}, "landmarks must be a list of names"),
        ({"landmarks": [1]}, "landmarks must be a list of names"),
        ({"format": "1"}, "format must be a whole number, not '1'"),
    ],
)
def test_a_strange_description_is_refused(folder, change, message):
    values = json.loads((folder / "dataset.json").read_text()) | change
    (folder / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        shards.read_people(folder, "train")
