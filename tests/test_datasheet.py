"""The page about a data set shows what is in it, where the labels say it is."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deformlearn.anatomy import segment_colours
from deformlearn.data.shards import DatasetInfo, Row, write_info, write_rows
from deformlearn.data.soundness import Rejected
from deformlearn.datasheet import write_datasheet
from deformlearn.errors import InputError
from deformlearn.skeleton import SEGMENTS, joint_set

JOINTS = joint_set("coco17")


@pytest.fixture
def data(template, tmp_path):
    """One person on grey: six points on the left knee's octahedron, one key point on the right wrist."""
    Image.new("RGB", (200, 200), (128, 128, 128)).save(tmp_path / "grey.png")
    keypoints, weights = np.zeros((17, 2)), np.zeros(17)
    keypoints[JOINTS.index("right_wrist")] = [150.0, 50.0]
    weights[JOINTS.index("right_wrist")] = 1
    knee = SEGMENTS.index("left_knee")
    row = Row(
        key="only <one>",
        crop=(100.0, 100.0, 100.0),
        points=np.full((6, 2), [50.0, 150.0]),
        faces=np.full(6, 8 * knee),
        barycentric=np.full((6, 3), 1 / 3),
        point_weights=np.ones(6),
        keypoints=keypoints,
        keypoint_weights=weights,
        image_path="grey.png",
    )
    write_info(tmp_path, DatasetInfo("octahedra", template.fingerprint, "coco17"))
    write_rows(tmp_path, "train", 0, [row])
    return tmp_path, row


def pictures(page):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))).astype(float) for one in found
    ]


def at(picture, x, y):
    """Colour at a source pixel: the picture shows 1.2 times the crop, which is 200 px wide."""
    zoom = len(picture) / 240
    return picture[round((y + 20) * zoom), round((x + 20) * zoom)]


def test_points_have_their_segments_colour_and_key_points_their_sides(data, template):
    folder, _ = data
    page = write_datasheet(folder, template).read_text()
    _, photo, labels = pictures(page)
    knee = segment_colours()[SEGMENTS.index("left_knee")].numpy() * 255
    assert np.abs(at(labels, 50, 150) - knee).max() < 40
    ring = at(photo, 150 + 5 * 240 / 320, 50)
    assert ring[0] > ring[2] + 60  # red is right
    assert np.abs(at(photo, 100, 150) - 128).max() < 6
    assert "1 of 17 key points" in page


def test_the_page_is_whole_in_itself_and_quotes_what_it_shows(data, template):
    folder, _ = data
    page = write_datasheet(folder, template, bad=[Rejected("row <7>", "is bad")]).read_text()
    assert "only &lt;one&gt;" in page
    assert "row &lt;7&gt;: is bad" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_row_that_cannot_be_shown_says_why(data, template):
    folder, row = data
    bad = replace(row, key="bad", faces=np.full(6, 10**6))
    gone = replace(row, key="gone", image_path="nowhere.png")
    write_rows(folder, "train", 0, [row, bad, gone])
    page = write_datasheet(folder, template).read_text()
    assert "point_face must be a face of the template" in page
    assert "nowhere.png does not exist" in page


def test_rows_with_nulls_say_why(data, template):
    folder, row = data
    path = write_rows(folder, "train", 0, [row, replace(row, key="gone")])
    table = pq.read_table(path)
    for name, values in (
        ("point_weight", [[None] * 6, [1] * 6]),
        ("image_path", ["grey.png", None]),
    ):
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path)
    page = write_datasheet(folder, template).read_text()
    assert "point_weight holds a null" in page
    assert "it has no image and no image_path" in page


def test_at_most_24_people_of_all_splits_are_drawn_the_same_each_time(data, template):
    folder, row = data
    write_rows(folder, "train", 0, [replace(row, key=f"train-{i}") for i in range(20)])
    write_rows(folder, "test", 0, [replace(row, key=f"test-{i}") for i in range(20)])
    page = write_datasheet(folder, template).read_text()
    assert page == write_datasheet(folder, template).read_text()
    assert page.count("<figure>") == 24
    assert "test-" in page
    assert "train-" in page


def test_reasons_of_an_import_are_counted(data, template):
    folder, _ = data
    lines = ["file,row,reason", *(f"a.json,annotation {i},it has {i} points" for i in range(3))]
    (folder / "rejects-train.csv").write_text("\n".join(lines))
    page = write_datasheet(folder, template).read_text()
    assert "<td>3</td><td>it has … points</td>" in page


def test_a_folder_that_is_no_data_set_is_refused(template, tmp_path):
    with pytest.raises(InputError, match="not a data set"):
        write_datasheet(tmp_path, template)
