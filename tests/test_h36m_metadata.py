"""metadata.xml and the cameras in it (data/h36m_metadata.py)."""

import numpy as np
import pytest

from deformlearn.data.h36m_metadata import (
    ACTIONS,
    CAMERAS,
    LabCamera,
    parse_key,
    read_metadata,
    rotation_from_angles,
)
from deformlearn.errors import InputError
from miniature import lab_cameras, metadata_xml


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "metadata.xml"
    path.write_text(metadata_xml(lab_cameras()))
    return path


def test_every_subject_has_every_camera_and_two_trials_of_every_action(file):
    known = read_metadata(file)
    assert len(known.cameras) == 11 * 4
    assert len(known.takes) == 11 * len(ACTIONS) * 2
    assert {take.trial for take in known.takes} == {1, 2}


def test_cameras_come_back_as_they_were_written(file):
    known = read_metadata(file)
    for camera, lab in lab_cameras().items():
        for name in ("rotation", "position", "focal", "centre", "radial", "tangential"):
            found = getattr(known.cameras["S7", camera], name)
            np.testing.assert_allclose(found, getattr(lab, name), atol=1e-9)


def test_the_real_first_camera_of_s1_looks_where_it_is_known_to():
    # Angles and position of w0's first entry; the rotation as published with camera parameters.
    rotation = rotation_from_angles(np.array([-1.38382776, -3.16734304, 0.413636308]))
    wanted = [
        [-0.9153617, 0.4018084, 0.0257475],
        [0.0515481, 0.1803736, -0.9822465],
        [-0.3993190, -0.8977836, -0.1858195],
    ]
    np.testing.assert_allclose(rotation, wanted, atol=1e-6)


def test_rotations_are_rotations(file):
    for lab in read_metadata(file).cameras.values():
        np.testing.assert_allclose(lab.rotation @ lab.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(lab.rotation) > 0


def test_to_world_undoes_to_camera(file):
    lab = read_metadata(file).cameras["S1", CAMERAS[2]]
    points = np.random.default_rng(0).normal(size=(5, 3)) * 1000
    np.testing.assert_allclose(lab.to_world(lab.to_camera(points)), points, atol=1e-8)


def test_what_is_above_in_the_laboratory_is_above_in_the_picture(file):
    for lab in read_metadata(file).cameras.values():
        low, high = lab.to_pixels(lab.to_camera(np.array([[0, 0, 0.0], [0, 0, 1700.0]])))
        assert high[1] < low[1]


def test_without_distortion_a_camera_is_a_pinhole():
    lens = (np.array([1145.0, 1144.0]), np.array([512.0, 515.0]), np.zeros(3), np.zeros(2))
    lab = LabCamera(np.eye(3), np.zeros(3), *lens)
    np.testing.assert_allclose(lab.to_pixels(np.array([[500, -250, 5000.0]])), [[626.5, 457.8]])


def test_distortion_is_the_polynomial_written_out():
    radial, tangential = np.array([-0.2, 0.24, -0.002]), np.array([-0.001, -0.003])
    lab = LabCamera(np.eye(3), np.zeros(3), np.ones(2), np.zeros(2), radial, tangential)
    x, y = 0.3, -0.2
    r = x * x + y * y
    bent = 1 - 0.2 * r + 0.24 * r**2 - 0.002 * r**3 + (-0.001 * y - 0.003 * x)
    wanted = [x * bent - 0.003 * r, y * bent - 0.001 * r]
    np.testing.assert_allclose(lab.to_pixels(np.array([2 * x, 2 * y, 2.0])), wanted)


def test_both_names_of_an_action_find_the_same_take(file):
    known = read_metadata(file)
    photo = known.take("S5", "TakingPhoto 1")
    assert photo == known.take("S5", "Photo 1")
    assert (photo.name, photo.action, photo.trial) == ("TakingPhoto 1", "Photo", 1)
    assert known.take("S1", "WalkDog").trial == 2
    assert known.take("S1", "Juggling") is None


def test_a_key_tells_trial_and_frame(file):
    take = read_metadata(file).take("S9", "WalkDog 1")
    key = take.key(CAMERAS[3], 5)
    assert key == "S9_WalkDog_1.60457274_000005"
    assert parse_key(key) == (1, 5)
    assert parse_key("train-000001") is None


@pytest.mark.parametrize("row", ["", "<td>1</td>", "<td>²</td><td>²</td><td>Directions</td>"])
def test_rows_that_are_no_takes_are_passed_over(file, row):
    takes = read_metadata(file).takes
    file.write_text(file.read_text().replace("</mapping>", f"<tr>{row}</tr></mapping>"))
    assert read_metadata(file).takes == takes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<metadata><mapping>", "not whole XML"),
        ("<metadata/>", "has no mapping"),
        ("<metadata><mapping><tr><td>x</td></tr></mapping></metadata>", "has no dbcameras"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "metadata.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_metadata(path)


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    with pytest.raises(InputError, match=r"does not exist; give metadata\.xml of Human3\.6M"):
        read_metadata(tmp_path / "metadata.xml")


@pytest.mark.parametrize(
    "cut", [lambda t: t.replace("<w0>[", "<w0>[1 "), lambda t: t.replace("S11", "")]
)
def test_numbers_that_do_not_add_up_are_counted_in_the_message(file, cut):
    file.write_text(cut(file.read_text()))
    with pytest.raises(InputError, match=r"w0 has 30[01] numbers for 4 cameras"):
        read_metadata(file)


@pytest.mark.parametrize("word", ["many", "nan"])
def test_w0_of_words_is_no_w0(file, word):
    file.write_text(file.read_text().replace("<w0>[", f"<w0>[{word} "))
    with pytest.raises(InputError, match="has no w0"):
        read_metadata(file)
