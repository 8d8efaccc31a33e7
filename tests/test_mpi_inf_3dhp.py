"""Files of the official layouts, written as MATLAB writes them: HDF5 (v7.3) and v5."""

import shutil

import av
import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deformlearn.data.mpi_inf_3dhp import Mpi3dhpTest, Mpi3dhpTrain
from deformlearn.data.sources import Frame
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set
from readers import sorted_out

NAMES_28 = (
    "spine3 spine4 spine2 spine pelvis neck head head_top left_clavicle left_shoulder left_elbow "
    "left_wrist left_hand right_clavicle right_shoulder right_elbow right_wrist right_hand left_hip "
    "left_knee left_ankle left_foot left_toe right_hip right_knee right_ankle right_foot right_toe"
).split()
"""The data set's own documentation of annot.mat."""


def write_test_file(path, **changes):
    """8 frames; every number tells its frame, joint and axis."""
    frames, joints = np.arange(8)[:, None, None, None], np.arange(17)[:, None]
    fields = {
        "annot2": 100.0 + frames + 10 * joints + 3 * np.arange(2) * joints,
        "annot3": 3000.0 + frames + 10 * joints + 1000 * np.arange(3),
        "univ_annot3": 2000.0 + frames + 10 * joints + 1000 * np.arange(3),
        "valid_frame": np.array([[0, 1, 1, 0, 1, 1, 1, 1]], dtype=np.float64).T,
        "activity_annotation": np.arange(1.0, 9.0)[:, None],
        "bb_crop": np.zeros((8, 34)),
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in fields.items():
            if value is not None:
                file[name] = value
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


@pytest.fixture
def test_set(tmp_path):
    folder = tmp_path / "mpi_inf_3dhp_test_set"
    for sequence, size in (("TS1", (512, 512)), ("TS10", (480, 270)), ("TS2", (512, 512))):
        write_test_file(folder / sequence / "annot_data.mat")
        images = folder / sequence / "imageSequence"
        images.mkdir()
        for number in range(1, 9):
            Image.new("RGB", size).save(images / f"img_{number:06d}.jpg")
    return folder


@pytest.mark.parametrize("run", [1, 3, 64])
def test_valid_frames_are_read_in_order_whatever_the_run(test_set, run):
    people, rejected = sorted_out(Mpi3dhpTest(test_set, run=run))
    assert not rejected
    assert [one.subject for one in people] == ["TS1"] * 6 + ["TS2"] * 6 + ["TS10"] * 6
    assert [one.frame for one in people[:6]] == [1, 2, 4, 5, 6, 7]
    assert [one.key for one in people[:2]] == ["TS1_000002", "TS1_000003"]
    assert people[0].image == test_set / "TS1" / "imageSequence" / "img_000002.jpg"
    np.testing.assert_allclose(people[2].keypoints[3], [100 + 4 + 30, 100 + 4 + 30 + 9])
    np.testing.assert_allclose(people[2].joints_mm[3], [2034, 3034, 4034])
    assert people[0].action == "Exercising"
    assert people[5].action == ""


def test_the_folder_above_true_sizes_and_steps(test_set):
    people, _ = sorted_out(Mpi3dhpTest(test_set.parent, universal=False, every=2))
    assert [one.frame for one in people[:3]] == [1, 4, 6]
    np.testing.assert_allclose(people[0].joints_mm[0], [3001, 4001, 5001])
    assert "own size" in Mpi3dhpTest(test_set, universal=False).description
    assert "universal size" in Mpi3dhpTest(test_set).description
    assert Mpi3dhpTest(test_set).joints == "mpi_inf_3dhp17"


def test_the_box_surrounds_all_joints(test_set):
    (person, *_), _ = sorted_out(Mpi3dhpTest(test_set))
    x, y, width, height = person.box
    assert (person.keypoints > [x, y]).all()
    assert (person.keypoints < [x + width, y + height]).all()
    longer = np.ptp(person.keypoints, axis=0).max()
    assert width == pytest.approx(160 + 0.2 * longer)


def test_bad_rows_are_named_and_the_others_kept(test_set):
    write_test_file(test_set / "TS2" / "annot_data.mat")
    with h5py.File(test_set / "TS2" / "annot_data.mat", "r+") as file:
        file["annot2"][1, 0, 4, 1] = np.nan
        file["univ_annot3"][2, 0, 4, 1] = np.inf
        file["annot2"][4] += 10_000
        file["annot2"][5] = 7
    images = test_set / "TS1" / "imageSequence"
    (images / "img_000003.jpg").unlink()
    (images / "img_000005.jpg").write_bytes(b"no image")
    people, rejected = sorted_out(Mpi3dhpTest(test_set))
    assert len(people) == 18 - 6
    told = [(one.where, one.reason) for one in rejected]
    assert told[0][0] == "TS1/annot_data.mat row 2"
    assert told[0][1].startswith("its image")
    assert "cannot be read" in told[1][1]
    assert [where for where, _ in told[2:]] == [
        f"TS2/annot_data.mat row {row}" for row in (1, 2, 4, 5)
    ]
    assert "NaN or infinite" in told[2][1]
    assert "NaN or infinite" in told[3][1]
    assert "outside the image of 512 x 512 px" in told[4][1]
    assert "in one line or place" in told[5][1]


def test_more_images_than_rows_are_noticed(test_set):
    images = test_set / "TS1" / "imageSequence"
    shutil.copy(images / "img_000001.jpg", images / "img_000009.jpg")
    _, (rejected,) = sorted_out(Mpi3dhpTest(test_set))
    assert "9 images but 8 rows" in rejected.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"univ_annot3": None, "valid_frame": None}, "has no field univ_annot3, valid_frame"),
        ({"annot2": np.zeros((8, 1, 14, 2))}, "annot2 is float64 of the shape (8, 1, 14, 2)"),
        ({"annot2": np.array([b"a"] * 8)}, "wanted numbers, (frames, 1, 17, 2)"),
        ({"valid_frame": np.ones((7, 1))}, "valid_frame is float64 of the shape (7, 1)"),
        ({"univ_annot3": np.zeros((9, 1, 17, 3))}, "for 8 frames"),
        ({"annot2": 5.0}, "annot2 is float64 of the shape ()"),
    ],
)
def test_a_sequence_with_wrong_fields_is_left_out_and_named(test_set, changes, words):
    write_test_file(test_set / "TS1" / "annot_data.mat", **changes)
    people, (rejected,) = sorted_out(Mpi3dhpTest(test_set))
    assert len(people) == 12
    assert rejected.where.endswith("TS1/annot_data.mat")
    assert words in rejected.reason


def test_other_files_and_folders_are_refused(test_set, tmp_path):
    path = test_set / "TS1" / "annot_data.mat"
    path.write_bytes(path.read_bytes()[:3000])
    (test_set / "TS2" / "annot_data.mat").write_text("no such thing")
    (test_set / "TS10" / "annot_data.mat").unlink()
    people, rejected = sorted_out(Mpi3dhpTest(test_set))
    assert not people
    assert ["MATLAB v7.3" in one.reason for one in rejected] == [True, True, False]
    assert "there is no" in rejected[2].reason
    with pytest.raises(InputError, match="no folders TS1 to TS6"):
        list(Mpi3dhpTest(tmp_path / "elsewhere").entries())
    with pytest.raises(InputError, match="every 1 or more"):
        Mpi3dhpTest(test_set, every=0)


def write_film(path, count):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def cells(arrays):
    made = np.empty((len(arrays), 1), dtype=object)
    made[:, 0] = arrays
    return made


def write_train_file(path, frames=25, cameras=9, **changes):
    rows = np.arange(frames)[:, None, None]
    joints = np.arange(28)[:, None]

    def numbers(axes, base):
        value = base + rows + 10.0 * joints + 3 * np.arange(axes) * joints
        return [value.reshape(frames, -1) + 100 * camera for camera in range(cameras)]

    fields = {
        "annot2": cells(numbers(2, 50)),
        "annot3": cells(numbers(3, 3000)),
        "univ_annot3": cells(numbers(3, 2000)),
        "frames": np.arange(frames)[:, None],
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {name: value for name, value in fields.items() if value is not None})


@pytest.fixture
def train_set(tmp_path):
    for sequence in ("S1/Seq1", "S2/Seq2"):
        write_train_file(tmp_path / sequence / "annot.mat")
        for camera in (0, 4):
            write_film(tmp_path / sequence / "imageSequence" / f"video_{camera}.avi", 25)
    return tmp_path


def test_training_joints_are_found_by_their_names(train_set):
    people, rejected = sorted_out(Mpi3dhpTrain(train_set, cameras=(0, 4)))
    assert not rejected
    assert [one.key for one in people[:4]] == [
        "S1_Seq1_video0_000000", "S1_Seq1_video0_000010", "S1_Seq1_video0_000020",
        "S1_Seq1_video4_000000",
    ]  # fmt: skip
    assert people[1].image == Frame(train_set / "S1/Seq1/imageSequence/video_0.avi", 10)
    for place, name in enumerate(joint_set("mpi_inf_3dhp17").names):
        joint = NAMES_28.index(name)
        assert people[4].keypoints[place].tolist() == [460 + 10 * joint, 460 + 13 * joint]
        assert people[4].joints_mm[place, 0] == 3410 + 10 * joint
    universal, _ = sorted_out(Mpi3dhpTrain(train_set, cameras=(0,), universal=True, every=5))
    assert len(universal) == 10
    assert universal[0].joints_mm.min() < 3000


def test_extracted_frames_serve_instead_of_a_video(train_set):
    frames = train_set / "S1/Seq1/imageFrames/video_0"
    frames.mkdir(parents=True)
    Image.new("RGB", (2048, 2048)).save(frames / "frame_000001.jpg")
    people, rejected = sorted_out(Mpi3dhpTrain(train_set, cameras=(0,)))
    assert people[0].image == frames / "frame_000001.jpg"
    assert [one.where for one in rejected] == [f"S1/Seq1 camera 0 frame {row}" for row in (10, 20)]


def test_missing_cameras_frames_and_files_are_named(train_set):
    write_train_file(train_set / "S2/Seq2/annot.mat", frames=45, annot3=None)
    write_train_file(train_set / "S3/Seq1/annot.mat", frames=45)
    write_film(train_set / "S3/Seq1/imageSequence/video_0.avi", 25)
    people, rejected = sorted_out(Mpi3dhpTrain(train_set, cameras=(0, 20)))
    assert len(people) == 6
    told = "\n".join(f"{one.where}: {one.reason}" for one in rejected)
    assert "S1/Seq1 camera 20: " in told
    assert "has 9 cameras, no number 20" in told
    assert "S2/Seq2 camera 0: " in told
    assert "it has no variable annot3" in told
    assert "S3/Seq1 camera 0 frame 30: " in told
    assert "has only 25 frames" in told


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"annot2": cells([np.zeros((25, 34))] * 9)}, "wanted (frames, 56)"),
        ({"annot3": cells([np.zeros((24, 84))] * 9)}, "25 frames in 2D and 24 in 3D"),
        ({"annot3": cells([np.zeros((25, 84))] * 8)}, "9 cameras in 2D and 8 in 3D"),
        ({"annot2": "text"}, "wanted one cell a camera"),
    ],
)
def test_wrong_training_fields_are_named(train_set, changes, words):
    write_train_file(train_set / "S1/Seq1/annot.mat", **changes)
    people, rejected = sorted_out(Mpi3dhpTrain(train_set, cameras=(0,)))
    assert len(people) == 3
    assert words in rejected[0].reason


def test_other_training_files_and_folders_are_refused(train_set, tmp_path):
    path = train_set / "S1/Seq1/annot.mat"
    path.write_bytes(path.read_bytes()[:2000])
    (train_set / "S2/Seq2/annot.mat").write_text("no such thing")
    people, rejected = sorted_out(Mpi3dhpTrain(train_set, cameras=(0,)))
    assert not people
    assert all("cannot be read as a MATLAB file" in one.reason for one in rejected)
    with pytest.raises(InputError, match=r"has no S1/Seq1/annot.mat"):
        list(Mpi3dhpTrain(tmp_path / "elsewhere").entries())


@pytest.fixture(scope="module")
def wholes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_test_file(folder / "TS1" / "annot_data.mat")
    images = folder / "TS1" / "imageSequence"
    images.mkdir()
    for number in range(1, 9):
        Image.new("RGB", (512, 512)).save(images / f"img_{number:06d}.jpg")
    write_train_file(folder / "S1" / "Seq1" / "annot.mat", frames=3, cameras=1)
    frames = folder / "S1" / "Seq1" / "imageFrames" / "video_0"
    frames.mkdir(parents=True)
    for number in range(1, 4):
        Image.new("RGB", (2048, 2048)).save(frames / f"frame_{number:06d}.jpg")
    paths = (folder / "TS1" / "annot_data.mat", folder / "S1" / "Seq1" / "annot.mat")
    sources = (Mpi3dhpTest(folder), Mpi3dhpTrain(folder, cameras=(0,), every=1))
    return [(*one, one[0].read_bytes()) for one in zip(paths, sources, strict=True)]


# The same mutations each time: each reads its file in a process of its own, and some take seconds.
@pytest.mark.filterwarnings("default")
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_mutated_file_gives_sound_people_or_says_why_not(wholes, data):
    path, source, whole = data.draw(st.sampled_from(wholes))
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    people, rejected = sorted_out(source)
    assert not any("\n" in one.reason for one in rejected)
    for one in people:
        assert np.isfinite(one.keypoints).all()
        assert np.isfinite(one.joints_mm).all()
        assert np.isfinite(one.box).all()
        assert one.keypoints.shape == (17, 2)
