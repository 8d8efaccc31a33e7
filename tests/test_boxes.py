import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deformlearn.data.boxes import PersonBox, is_inside, read_boxes
from deformlearn.data.sources import Frame
from deformlearn.errors import InputError


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def openpose(*people, field="pose_keypoints_2d"):
    return {"version": 1.3, "people": [{field: person} for person in people]}


def spread(*points):
    return [number for point in points for number in point]


def test_spins_box_is_that_of_the_only_person(write):
    boxes = read_boxes(write("im1010_bbox.json", {"bbox": [10, 20, 30, 40.5]}))
    assert boxes.boxes == (PersonBox((10.0, 20.0, 30.0, 40.5)),)
    assert boxes.of_image(Path("/photos/any.jpg")) == list(boxes.boxes)
    assert boxes.of_frame(Frame(Path("any.mp4"), 7)) == list(boxes.boxes)


def test_images_by_name_with_one_or_several_people(write):
    path = write(
        "boxes.json",
        {
            "a.jpg": [1, 2, 3, 4],
            "sub/b.png": [[1, 2, 3, 4], [5, 6, 7, 8]],
            "c": {"bbox": [9, 9, 9, 9], "track_id": 4},
            "empty.jpg": [],
        },
    )
    boxes = read_boxes(path)
    assert [one.box for one in boxes.of_image(Path("/data/a.jpg"))] == [(1, 2, 3, 4)]
    assert len(boxes.of_image(Path("/data/sub/b.png"))) == 2
    assert boxes.of_image(Path("/data/other/b.png")) == []
    assert boxes.of_image(Path("c.tiff"))[0].track == "4"
    assert boxes.of_image(Path("empty.jpg")) == []
    assert not boxes.rejected


def test_frames_by_number_count_from_0(write):
    boxes = read_boxes(write("b.json", {"0": [1, 2, 3, 4], "12": [5, 6, 7, 8]}))
    assert boxes.of_frame(Frame(Path("v.mp4"), 12))[0].box == (5, 6, 7, 8)
    assert boxes.of_frame(Frame(Path("v.mp4"), 1)) == []


def test_records_name_an_image_or_a_frame_of_a_video(write):
    records = [
        {"frame": 3, "bbox": [1, 2, 3, 4], "track_id": 1},
        {"frame": 3, "bbox": [5, 6, 7, 8], "track_id": "b"},
        {"video": "v.mp4", "frame": 4, "bbox": [9, 9, 9, 9]},
        {"image_id": "alpha.jpg", "box": [7, 7, 7, 7], "score": 2.5},
        {"image_id": 139, "bbox": [1, 1, 1, 1]},
    ]
    boxes = read_boxes(write("r.json", records))
    assert [one.track for one in boxes.of_frame(Frame(Path("/x/v.mp4"), 3))] == ["1", "b"]
    assert boxes.of_frame(Frame(Path("/x/v.mp4"), 4))[0].box == (9, 9, 9, 9)
    assert boxes.of_frame(Frame(Path("/x/other.mp4"), 4)) == []
    assert boxes.of_image(Path("alpha.jpg"))[0].box == (7, 7, 7, 7)
    (bad,) = boxes.rejected
    assert bad.where.endswith("r.json, record 4")
    assert "139" in bad.reason


def test_a_whole_coco_file_gives_its_people_under_the_names_of_their_images(write):
    def annotation(image, x, **more):
        return {"id": 9, "image_id": image, "category_id": 1, "bbox": [x, 2, 3, 4], **more}

    coco = {
        "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 6, "file_name": "b/c.jpg"}, 7],
        "annotations": [
            annotation(5, 10),
            annotation(5, 20, track_id=8),
            annotation(6, 30, category_id=18),
            annotation(6, 40),
            annotation(6, 50, iscrowd=1),
            annotation(4, 60),
            "text",
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    boxes = read_boxes(write("instances.json", coco))
    assert [(one.box[0], one.track) for one in boxes.of_image(Path("/x/a.jpg"))] == [
        (10, ""),
        (20, "8"),
    ]
    assert [one.box[0] for one in boxes.of_image(Path("/x/b/c.jpg"))] == [40]
    assert [one.reason for one in boxes.rejected] == [
        "marks a crowd",
        "no image has the id 4",
        "is no annotation",
    ]
    del coco["categories"]
    assert len(read_boxes(write("instances.json", coco)).boxes) == 4


def test_tables_with_a_header(write):
    text = "image, X, Y, Width, Height, track\na.jpg,1,2,3,4,7\n\na.jpg,5,6,7,8,\n"
    boxes = read_boxes(write("t.csv", text))
    assert [(one.box, one.track) for one in boxes.of_image(Path("a.jpg"))] == [
        ((1, 2, 3, 4), "7"),
        ((5, 6, 7, 8), ""),
    ]
    boxes = read_boxes(write("t.tsv", "frame\tx\ty\tw\th\n0\t1\t2\t3\t4\n"))
    assert boxes.of_frame(Frame(Path("v.mp4"), 0))[0].box == (1, 2, 3, 4)
    with pytest.raises(InputError, match=r"t.csv has no column y, h; wanted"):
        read_boxes(write("t.csv", "image,x,w\na,1,2\n"))


def test_mot_frames_count_from_1(write):
    text = "1,3,10,20,30,40,1,-1,-1,-1\n2,3,11,20,30,40,0.9,-1,-1,-1\n2,-1,1,1,5,5,0,1,1\n"
    boxes = read_boxes(write("gt.txt", text))
    assert [(one.frame, one.track, one.box[0]) for one in boxes.boxes] == [
        (0, "3", 10),
        (1, "3", 11),
    ]
    assert boxes.rejected[0].where.endswith("gt.txt, line 3")
    assert "ignored" in boxes.rejected[0].reason


def test_a_table_from_frame_0_without_a_header_is_not_taken_for_another_kind(write):
    """Its columns may well be frame, x, y, w, h, track: boxes would be of other sizes, unnoticed."""
    path = write("boxes.csv", "0,280,130,144,254,3\n1,282,131,144,254,3\n")
    with pytest.raises(
        InputError, match=r"line 1: .*counted from 1.* this frame is 0; .*frame,x,y,w,h,track"
    ):
        read_boxes(path)


def test_openpose_boxes_surround_the_confident_points(write):
    seen = spread((100, 50, 0.9), (140, 250, 0.8), (90, 60, 0.3), (500, 500, 0.1), (0, 0, 0))
    nobody = spread((0, 0, 0), (0, 0, 0))
    boxes = read_boxes(write("o.json", openpose(seen, nobody)))
    (one,) = boxes.boxes
    assert one.box == pytest.approx((90 - 20, 50 - 20, 50 + 40, 200 + 40))
    old = read_boxes(write("o.json", openpose(seen, field="pose_keypoints")))
    assert old.boxes == boxes.boxes


def test_a_folder_of_openpose_files_serves_images_and_videos(write):
    person = spread((100, 50, 0.9), (140, 250, 0.8), (90, 60, 0.3))
    write("op/dance_000000000000_keypoints.json", openpose())
    write("op/dance_000000000012_keypoints.json", openpose(person))
    folder = write("op/photo_bbox.json", {"bbox": [1, 2, 3, 4]}).parent
    boxes = read_boxes(folder)
    assert len(boxes.of_frame(Frame(Path("dance.mp4"), 12))) == 1
    assert boxes.of_frame(Frame(Path("dance.mp4"), 0)) == []
    assert boxes.of_frame(Frame(Path("other.mp4"), 12)) == []
    assert len(boxes.of_image(Path("dance_000000000012.png"))) == 1
    assert boxes.of_image(Path("photo.jpg"))[0].box == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([1, 2, 3], "a box is [x, y, width, height], got [1, 2, 3]"),
        ([1, 2, float("nan"), 4], "finite numbers, got nan"),
        ([1, 2, 10**400, 4], "a box needs numbers"),
        ([1, 2, "wide", 4], "a box needs numbers, got wide"),
        ([1, 2, True, 4], "finite numbers, got True"),
        ([1, 2, 0, 4], "a box of 0 x 4 px has no size"),
        ([1, 2, 3, -4], "a box of 3 x -4 px has no size"),
        (None, "got None"),
    ],
)
def test_bad_boxes_are_listed_and_the_others_kept(write, box, reason):
    records = [{"image": "good", "bbox": [1, 2, 3, 4]}, {"image": "bad", "bbox": box}]
    boxes = read_boxes(write("r.json", records))
    assert [one.image for one in boxes.boxes] == ["good"]
    (bad,) = boxes.rejected
    assert bad.where.endswith("record 1")
    assert reason in bad.reason


def test_bad_rows_of_tables_and_key_points_are_listed(write):
    boxes = read_boxes(
        write("m.txt", "1,1,1,1,5,5\nx,1,1,1,5,5\nnan,1,1,1,5,5\n1,1\n1.5,1,1,1,5,5")
    )
    assert len(boxes.boxes) == 1
    assert [bad.where.rpartition(" ")[2] for bad in boxes.rejected] == ["2", "3", "4", "5"]
    few, unit = spread((5, 5, 1), (9, 9, 1)), spread((0.1, 0.2, 1), (0.3, 0.1, 1), (0.9, 0.9, 1))
    good = spread((5, 5, 1), (9, 9, 1), (6, 3, 1))
    boxes = read_boxes(write("o.json", openpose(few, unit, ["x"], [1, 2], None, ["x"] * 3, good)))
    assert len(boxes.boxes) == 1
    reasons = [bad.reason for bad in boxes.rejected]
    assert "2 confident key points" in reasons[0]
    assert "--keypoint_scale" in reasons[1]
    assert len(reasons) == 6


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "is not json"),
        ("a.json", "[" * 100_000, "is not json"),
        ("a.json", "[1, 2, 3, 4]", r"holds \[1, 2, 3, 4\]; wanted boxes of people"),
        ("a.json", '"text"', "wanted boxes of people"),
        ("a.json", "{}", "holds no box"),
        ("a.json", '{"a.jpg": [1]}', r"holds no box: .*'a.jpg', person 0: a box is"),
        ("a.csv", "", "holds no box"),
        ("a.csv", "some words\nand more", "holds no box: .*line 1: 1 columns without a header"),
        ("a.txt", 'a,"b\n', "not a table of boxes"),
    ],
)
def test_other_files_are_refused(write, name, content, words):
    with pytest.raises(InputError, match=words):
        read_boxes(write(name, content))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_boxes(tmp_path / "gone.json")
    with pytest.raises(InputError, match="cannot read"):
        read_boxes(tmp_path / "gone.csv")
    with pytest.raises(InputError, match="holds no json"):
        read_boxes(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not a table"):
        read_boxes(tmp_path / "a.csv")


def test_a_box_may_leave_the_image_but_must_touch_it():
    assert is_inside((-5.0, -5.0, 6.0, 6.0), 10, 10)
    assert is_inside((9.0, 9.0, 100.0, 100.0), 10, 10)
    assert not is_inside((-5.0, 0.0, 5.0, 5.0), 10, 10)
    assert not is_inside((0.0, 10.0, 5.0, 5.0), 10, 10)


SEEDS = [
    ("a.json", json.dumps({"bbox": [10, 20, 30, 40]})),
    ("a.json", json.dumps({"a.jpg": [[1, 2, 3, 4]], "b.jpg": {"bbox": [1, 2, 3, 4]}})),
    ("a.json", json.dumps([{"frame": 3, "bbox": [1, 2, 3, 4], "track_id": 1}])),
    ("a.json", json.dumps(openpose([100, 50, 0.9, 140, 250, 0.8, 90, 60, 0.3]))),
    ("a.csv", "image,x,y,w,h,track\na.jpg,1,2,3,4,7\n"),
    ("a.txt", "1,3,10,20,30,40,1,-1,-1,-1\n2,3,11,20,30,40,1,-1,-1,-1\n"),
]


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_gives_sound_boxes_or_a_clear_error(tmp_path, data):
    name, text = data.draw(st.sampled_from(SEEDS))
    content = bytearray(text.encode())
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255))
        else:
            content[place : place + 1] = data.draw(
                st.sampled_from([b"", b"null", b"[]", b"-", b"1e999", b"NaN", b'""', b"{}"])
            )
            content = content or bytearray(b" ")
    path = tmp_path / name
    path.write_bytes(content)
    try:
        boxes = read_boxes(path)
    except InputError as error:
        reasons = [str(error)]
    else:
        reasons = [bad.reason for bad in boxes.rejected]
        for one in boxes.boxes:
            assert all(abs(value) < float("inf") for value in one.box)
            assert min(one.box[2:]) > 0
            assert one.frame is None or one.frame >= 0
    assert not any("\n" in reason for reason in reasons)
