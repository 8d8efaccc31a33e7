"""A split block by block is the split: the same people, whatever the blocks and the shards."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from deformlearn.data import shards, tables
from deformlearn.data.streams import blocks_of, read_blocks
from deformlearn.errors import InputError
from deformlearn.registering import count_split
from test_shards import BAD, a_row


@pytest.fixture
def folder(tmp_path, template):
    info = shards.DatasetInfo(template.name, template.fingerprint, "h36m17")
    shards.write_info(tmp_path, info)
    return tmp_path


def count(folder, template):
    return count_split(folder, "train", template)


def write(folder, template, sizes, *, bad=(), row_group=None):
    """Shards of these sizes; the rows with these numbers are bad."""
    number = 0
    for shard, size in enumerate(sizes):
        rows = []
        for _ in range(size):
            row = a_row(f"key-{number}", points=3 + number % 5)
            rows.append(replace(row, crop=(1.0, 1.0, 0.0)) if number in bad else row)
            number += 1
        path = shards.write_rows(folder, "train", shard, rows)
        if row_group:
            pq.write_table(pq.read_table(path), path, row_group_size=row_group)


def together(blocks):
    """The same from every block, as plain lists."""
    return [
        (key, points[weights > 0].tolist(), keypoints.tolist())
        for people in blocks
        for key, points, weights, keypoints in zip(
            people.keys,
            people.observations.points,
            people.observations.point_weights,
            people.observations.keypoints,
            strict=True,
        )
    ]


@pytest.mark.parametrize("block", [1, 3, 4, 7, 100])
@pytest.mark.parametrize(("batch", "row_group"), [(100, None), (2, None), (3, 2), (1, 4)])
def test_blocks_are_the_split(folder, template, monkeypatch, block, batch, row_group):
    monkeypatch.setattr(tables, "BATCH", batch)
    write(folder, template, [5, 1, 3, 8], bad=(0, 4, 5, 9, 10, 16), row_group=row_group)
    whole = shards.read_people(folder, "train", template)
    counted = count(folder, template)
    assert len(counted) == len(whole) == 11
    assert counted.rejected == whole.rejected
    blocks = blocks_of(len(counted), block)
    read = list(read_blocks(counted, blocks))
    assert [len(people) for people in read] == [len(one) for one in blocks]
    assert together(read) == together([whole])
    some = blocks[1::2]
    expected = [row for one in some for row in together([whole])[one.start : one.stop]]
    assert together(read_blocks(counted, some)) == expected


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_what_is_wrong_with_a_row_does_not_depend_on_the_batches(
    folder, template, monkeypatch, batch
):
    monkeypatch.setattr(tables, "BATCH", batch)
    rows = [replace(a_row(f"bad-{n}"), **change) for n, change in enumerate(BAD.values())]
    twice = [a_row("good"), a_row("other"), a_row("good"), a_row("good", point_weights=np.ones(3))]
    shards.write_rows(folder, "train", 0, [*twice, *rows, a_row("", points=3), a_row("last")])
    shards.write_rows(folder, "train", 1, [a_row("good")])
    whole = shards.read_people(folder, "train", template)
    assert whole.keys == ["good", "other", "last"]
    assert whole.rejected[-1].where == "train-00001.parquet row 0 (good)"
    assert whole.rejected[-1].reason == "its key stands in an earlier shard"
    assert count(folder, template).rejected == whole.rejected


def test_a_shard_that_cannot_be_read_is_passed_over(folder, template):
    write(folder, template, [2, 2, 2])
    path = folder / "observations" / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    content[50:-1500] = bytes(len(content) - 1550)  # whole at its ends, broken within
    path.write_bytes(content)
    whole = shards.read_people(folder, "train", template)
    counted = count(folder, template)
    assert len(counted) == len(whole) == 4
    assert [one.where for one in counted.rejected] == [path.name]
    assert together(read_blocks(counted, blocks_of(4, 3))) == together([whole])


def test_the_count_is_the_fingerprint(folder, template):
    write(folder, template, [2, 3])
    assert count(folder, template).fingerprint == shards.fingerprint(folder, "train")


def test_no_usable_row_is_refused(folder, template):
    write(folder, template, [2], bad=(0, 1))
    with pytest.raises(InputError, match=r"no usable row in the split 'train'; .*crop has no size"):
        count(folder, template)


def test_a_shard_that_is_not_as_it_was_counted_is_refused(folder, template):
    write(folder, template, [2, 3])
    counted = count(folder, template)
    path = folder / "observations" / "train-00001.parquet"
    shards.write_rows(folder, "train", 1, [a_row("a")])
    with pytest.raises(InputError, match=r"00001.* changed .*: 3 rows in .*, now 1 rows in"):
        list(read_blocks(counted, blocks_of(5, 2)))
    path.unlink()
    with pytest.raises(InputError, match=r"00001.* with 3 rows, and cannot be read any more"):
        list(read_blocks(counted, blocks_of(5, 2)))
    only_first = list(read_blocks(counted, [range(2)]))
    assert only_first[0].keys == ["key-0", "key-1"]


def test_nothing_is_decoded_after_the_last_row_that_is_wanted(folder, template, monkeypatch):
    monkeypatch.setattr(tables, "BATCH", 2)
    write(folder, template, [11])
    counted, batches, decoded = count(folder, template), tables._batches, []

    def noted(*arguments):
        for start, table in batches(*arguments):
            decoded.append(start)
            yield start, table

    monkeypatch.setattr(tables, "_batches", noted)
    (people,) = read_blocks(counted, [range(3, 6)])
    assert people.keys == ["key-3", "key-4", "key-5"]
    assert decoded == [0, 2, 4]


def test_blocks_cover_everyone_once():
    assert blocks_of(7, 3) == [range(3), range(3, 6), range(6, 7)]
    assert blocks_of(3, 3) == [range(3)]


def test_short_blocks_have_short_padding(folder, template):
    write(folder, template, [5])  # 3, 4, 5, 6, 7 points
    widths = [
        p.observations.points.shape[1]
        for p in read_blocks(count(folder, template), blocks_of(5, 2))
    ]
    assert widths == [4, 6, 7]
