"""Human3.6M in its official layout, and from the common .npz (data/h36m.py)."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deformlearn.data.h36m import Human36M, extract_frames, image_fields
from deformlearn.data.h36m_metadata import CAMERAS, Take
from deformlearn.data.h36m_poses import RIGHT_FIRST, read_positions
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Frame, Person
from deformlearn.data.video import read_frames
from deformlearn.errors import InputError
from deformlearn.skeleton import JOINT_SETS
from miniature import Miniature, visible_points, write_archive, write_cdf, write_h36m

TWO = (CAMERAS[0], CAMERAS[3])
ALL = ("S1", "S5", "S9", "S11")


@pytest.fixture(scope="module")
def written(tmp_path_factory, template) -> Miniature:
    return write_h36m(tmp_path_factory.mktemp("h36m"), template)


@pytest.fixture
def mini(tmp_path, template) -> Miniature:
    """One subject that a test may damage."""
    return write_h36m(tmp_path, template, subjects=("S1",), actions=("Directions",))


def source(folder, **options) -> Human36M:
    given = {"subjects": ALL, "actions": ("Directions", "Photo"), "trials": (1,), "cameras": TWO}
    return Human36M(folder, **(given | options))


def everything(of: Human36M) -> tuple[list[Person], list[Rejected]]:
    """Who comes and what is rejected, as an import would have it."""
    people, rejected = [], []
    for entry in of.entries():
        try:
            found = [entry] if isinstance(entry, Rejected) else of.people(entry)
        except InputError as error:
            found = [Rejected(entry.where, str(error))]
        people += [one for one in found if isinstance(one, Person)]
        rejected += [one for one in found if isinstance(one, Rejected)]
    return people, rejected


def only_reason(of: Human36M) -> str:
    _, rejected = everything(of)
    assert len(rejected) == 1, rejected
    return f"{rejected[0].where}: {rejected[0].reason}"


def test_every_frame_of_every_camera_comes_once(written):
    people, rejected = everything(source(written.folder))
    assert not rejected
    assert len(people) == 4 * 2 * 2 * 6
    assert len({person.key for person in people}) == len(people)
    assert {person.action for person in people} == {"Directions", "Photo"}
    first = people[0]
    assert (first.key, first.subject, first.camera) == (
        "S1_Directions_1.54138969_000000",
        "S1",
        TWO[0],
    )
    assert first.image == Frame(written.folder / "S1/Videos/Directions 1.54138969.mp4", 0)


def test_an_older_name_of_an_action_is_the_same_action(written):
    people, _ = everything(source(written.folder, subjects=("S5",), actions=("Photo",)))
    assert people[0].key == "S5_Photo_1.54138969_000000"
    assert people[0].image.video.name == "TakingPhoto 1.54138969.mp4"


def test_key_points_are_where_the_data_set_s_own_2d_positions_are(written):
    people, _ = everything(source(written.folder))
    for person in people[::7]:
        stem = person.image.video.stem
        path = written.folder / person.subject / f"MyPoseFeatures/D2_Positions/{stem}.cdf"
        theirs = read_positions(path, 2)[person.frame, list(RIGHT_FIRST)]
        np.testing.assert_allclose(person.keypoints, theirs, atol=1e-6)


def test_joints_are_the_mono_positions_of_the_data_set(written):
    for person in everything(source(written.folder))[0][::7]:
        stem = person.image.video.stem
        path = written.folder / person.subject / f"MyPoseFeatures/D3_Positions_mono/{stem}.cdf"
        theirs = read_positions(path, 3)[person.frame, list(RIGHT_FIRST)]
        np.testing.assert_allclose(person.joints_mm, theirs, atol=1e-6)


def test_the_person_in_the_picture_is_inside_the_box(written, template):
    people = {person.key: person for person in everything(source(written.folder))[0]}
    for shot in written.shots[::9]:
        if shot.key not in people:
            continue
        person = people[shot.key]
        _, picture = next(read_frames(person.image.video, [shot.frame]))
        drawn = visible_points(template, shot).pixels.numpy()
        x, y = drawn % picture.width, drawn // picture.width
        left, top, width, height = person.box
        inside = (x > left) & (x < left + width) & (y > top) & (y < top + height)
        assert inside.mean() > 0.95


def test_left_first_is_the_same_people_with_their_legs_in_the_other_order(written):
    ours, _ = everything(source(written.folder, subjects=("S1",)))
    theirs, _ = everything(source(written.folder, subjects=("S1",), left_first=True))
    right, left = JOINT_SETS["h36m17"], JOINT_SETS["h36m17_left_first"]
    order = [right.index(name) for name in left.names]
    assert source(written.folder, left_first=True).joints == left.name
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.keypoints[order], other.keypoints)
        np.testing.assert_array_equal(one.joints_mm[order], other.joints_mm)


def test_the_corrupt_video_is_left_out_and_listed(written):
    of = source(written.folder, subjects=("S11",), actions=("Directions",), trials=(1, 2))
    people, rejected = everything(of)
    assert [one.where for one in rejected] == ["S11/Directions.54138969"]
    assert "corrupt" in rejected[0].reason
    assert {(person.key[:16], person.camera) for person in people} == {
        ("S11_Directions_1", TWO[0]),
        ("S11_Directions_1", TWO[1]),
        ("S11_Directions_2", TWO[1]),
    }


def test_every_nth_frame_counts_from_the_first(written):
    people, _ = everything(source(written.folder, every=5))
    assert {person.frame for person in people} == {0, 5}


def test_runs_split_a_video_and_lose_nothing(written):
    whole = source(written.folder, subjects=("S9",))
    cut = replace(whole, run_length=4)
    assert [entry.where for entry in cut.entries()][:2] == [
        "S9/Directions 1.54138969 frames 0-3",
        "S9/Directions 1.54138969 frames 4-5",
    ]
    keys = [[person.key for person in everything(one)[0]] for one in (whole, cut)]
    assert keys[0] == keys[1]


def test_source_and_entries_travel_to_other_processes(written):
    of = source(written.folder)
    again = pickle.loads(pickle.dumps(of))
    entry = pickle.loads(pickle.dumps(next(of.entries())))
    assert again == of
    assert again.people(entry)[0].key == "S1_Directions_1.54138969_000000"


def test_camera_space_positions_do_where_the_world_s_are_missing(mini):
    before, _ = everything(source(mini.folder, subjects=("S1",), actions=("Directions",)))
    (mini.folder / "S1/MyPoseFeatures/D3_Positions/Directions 1.cdf").unlink()
    after, rejected = everything(source(mini.folder, subjects=("S1",), actions=("Directions",)))
    assert not rejected
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-6)


def archived(folder, mini) -> Human36M:
    """The same as an archive and extracted frames."""
    path = folder / "S1/MyPoseFeatures/D3_Positions/Directions 1.cdf"
    write_archive(
        folder / "data_3d_h36m.npz", {"S1": {"Directions 1": read_positions(path, 3) / 1000}}
    )
    return source(
        folder, subjects=("S1",), actions=("Directions",), poses=folder / "data_3d_h36m.npz",
        images="{subject}/images/{subject}_{take}.{camera}_{number:06d}.jpg",
    )  # fmt: skip


def test_the_archive_and_extracted_frames_say_the_same_as_the_videos(mini):
    official, _ = everything(source(mini.folder, subjects=("S1",), actions=("Directions",)))
    of = archived(mini.folder, mini)
    images = mini.folder / "S1/images"
    images.mkdir()
    for camera in TWO:
        for number in range(1, 7):
            Image.new("RGB", (8, 8)).save(images / f"S1_Directions_1.{camera}_{number:06d}.jpg")
    people, rejected = everything(of)
    assert not rejected
    assert people[5].image == images / "S1_Directions_1.54138969_000006.jpg"
    for one, other in zip(official, people, strict=True):
        assert one.key == other.key
        np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-6)


def test_images_that_are_missing_are_listed_and_the_others_kept(mini):
    of = archived(mini.folder, mini)
    (mini.folder / "S1/images").mkdir()
    kept = mini.folder / "S1/images/S1_Directions_1.54138969_000003.jpg"
    Image.new("RGB", (8, 8)).save(kept)
    people, rejected = everything(of)
    assert [person.image for person in people] == [kept]
    assert len(rejected) == 11
    assert "there is no image" in rejected[0].reason


def test_a_pattern_with_unknown_fields_lists_the_known_ones(mini):
    of = replace(archived(mini.folder, mini), images="{person}.jpg")
    entry = next(of.entries())
    with pytest.raises(InputError, match="key, subject, take, action, trial, camera"):
        of.people(entry)


def test_the_other_common_naming_can_be_written():
    fields = image_fields(Take("S9", "WalkDog 1", "WalkDog", 1), CAMERAS[3], 0)
    pattern = (
        "s_{subject_number:02d}_act_{action_number:02d}_subact_{trial:02d}_ca_{camera_number:02d}"
    )
    assert pattern.format(**fields) == "s_09_act_15_subact_01_ca_04"
    assert fields["number"] == 1


def test_extracted_frames_are_named_by_key_and_kept(mini, tmp_path):
    of = source(mini.folder, subjects=("S1",), actions=("Directions",), every=3)
    paths = list(extract_frames(of, tmp_path / "frames"))
    assert [path.name for path in paths[:2]] == [
        "S1_Directions_1.54138969_000000.jpg",
        "S1_Directions_1.54138969_000003.jpg",
    ]
    times = [path.stat().st_mtime_ns for path in paths]
    assert sorted(extract_frames(of, tmp_path / "frames")) == sorted(paths)
    assert [path.stat().st_mtime_ns for path in paths] == times
    people, rejected = everything(replace(of, images=f"{tmp_path}/frames/{{key}}.jpg"))
    assert [person.image for person in people] == paths
    assert not rejected
    _, second = next(read_frames(mini.folder / "S1/Videos/Directions 1.54138969.mp4", [3]))
    with Image.open(paths[1]) as written:
        difference = np.abs(np.asarray(written, float) - np.asarray(second, float))
    assert difference.mean() < 3


# Bad input: one clear line each, and the good rows stay.


def test_missing_metadata_says_where_it_comes_from(mini):
    (mini.folder / "metadata.xml").unlink()
    with pytest.raises(InputError, match=r"no metadata\.xml, which holds the cameras"):
        next(source(mini.folder, subjects=("S1",)).entries())


def test_metadata_may_lie_in_the_release_folder_or_elsewhere(mini, tmp_path):
    of = source(mini.folder, subjects=("S1",), actions=("Directions",))
    (mini.folder / "Release-v1.2").mkdir()
    moved = (mini.folder / "metadata.xml").rename(mini.folder / "Release-v1.2/metadata.xml")
    assert len(everything(of)[0]) == 12
    elsewhere = moved.rename(tmp_path / "elsewhere.xml")
    assert len(everything(replace(of, metadata=elsewhere))[0]) == 12


def test_archives_that_were_not_unpacked_are_named(tmp_path, mini):
    packed = tmp_path / "packed"
    packed.mkdir()
    (mini.folder / "metadata.xml").rename(packed / "metadata.xml")
    (packed / "Poses_D3_Positions_S1.tgz").touch()
    with pytest.raises(InputError, match=r"must be unpacked first: cd .*tar xzf"):
        next(source(packed).entries())


def test_a_folder_of_something_else_says_what_is_wanted(tmp_path, mini):
    other = tmp_path / "other"
    other.mkdir()
    (mini.folder / "metadata.xml").rename(other / "metadata.xml")
    with pytest.raises(
        InputError, match=r"give the folder in which Human3\.6M's archives were unpacked"
    ):
        next(source(other).entries())


def test_an_absent_subject_is_listed_and_the_others_come(mini):
    people, rejected = everything(
        source(mini.folder, subjects=("S6", "S1"), actions=("Directions",))
    )
    assert len(people) == 12
    assert [one.reason for one in rejected] == [
        "S6 has no poses; unpack Poses_D3_Positions_S6.tgz there"
    ]


def test_universal_poses_are_not_taken_for_the_person_s_own(mini):
    (mini.folder / "S6/MyPoseFeatures/D3_Positions_mono_universal").mkdir(parents=True)
    assert "only universal poses" in only_reason(
        source(mini.folder, subjects=("S6", "S1"), actions=("Directions",))
    )


def test_takes_without_poses_are_listed_in_one_line(mini):
    reason = only_reason(source(mini.folder, subjects=("S1",), trials=(1, 2)))
    assert reason == "S1: there are no poses of Directions, Photo 1, Photo"


def test_a_truncated_pose_file_costs_its_own_take_only(tmp_path, template):
    folder = write_h36m(tmp_path, template, subjects=("S1",)).folder
    path = folder / "S1/MyPoseFeatures/D3_Positions/Directions 1.cdf"
    path.write_bytes(path.read_bytes()[:3000])
    people, rejected = everything(source(folder, subjects=("S1",)))
    assert {person.action for person in people} == {"Photo"}
    assert len(people) == 12
    assert len(rejected) == 2
    assert all("is no CDF, or is cut short" in one.reason for one in rejected)


def test_frames_the_video_does_not_have_are_listed(mini):
    folder = mini.folder / "S1/MyPoseFeatures"
    for name in ("D3_Positions/Directions 1", "D2_Positions/Directions 1.54138969"):
        path = folder / f"{name}.cdf"
        positions = read_positions(path, 3 if "D3" in name else 2)
        write_cdf(path, np.concatenate([positions, positions[-1:]]))
    of = source(mini.folder, subjects=("S1",), actions=("Directions",), cameras=TWO[:1])
    assert only_reason(of) == "S1/Directions 1.54138969 frame 6: the video has only 6 frames"
    assert len(everything(of)[0]) == 6


def test_unequal_numbers_of_2d_and_3d_frames_are_said(mini):
    path = mini.folder / "S1/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf"
    write_cdf(path, read_positions(path, 2)[:4])
    of = source(mini.folder, subjects=("S1",), actions=("Directions",), cameras=TWO[:1])
    assert only_reason(of).endswith("has 4 frames but the 3D poses have 6")


def test_a_missing_video_is_said(mini):
    (mini.folder / "S1/Videos/Directions 1.60457274.mp4").unlink()
    of = source(mini.folder, subjects=("S1",), actions=("Directions",))
    assert only_reason(of).endswith("Directions 1.60457274.mp4 does not exist")
    assert len(everything(of)[0]) == 6


def changed(mini, change) -> Human36M:
    """The world positions changed in frame 2; the 2D positions are taken away."""
    path = mini.folder / "S1/MyPoseFeatures/D3_Positions/Directions 1.cdf"
    positions = read_positions(path, 3).copy()
    change(positions)
    write_cdf(path, positions)
    return source(mini.folder, subjects=("S1",), actions=("Directions",), cameras=TWO[:1])


def test_a_joint_that_is_no_number_costs_its_frame_only(mini):
    def spoil(positions):
        positions[2, 5, 1] = np.nan

    of = changed(mini, spoil)
    assert only_reason(of) == "S1/Directions 1.54138969 frame 2: a joint is NaN or infinite"
    assert len(everything(of)[0]) == 5


def test_a_joint_behind_the_camera_costs_its_frame_only(mini):
    def spoil(positions):
        positions[2, 5] = [-3000, 8000, 1500]

    assert only_reason(changed(mini, spoil)).endswith("a joint is behind the camera")


def test_poses_that_belong_to_other_cameras_are_found_out(mini):
    def move(positions):
        positions += [400.0, 0, 0]

    _, rejected = everything(changed(mini, move))
    assert len(rejected) == 6
    assert "poses and cameras are of different releases" in rejected[0].reason


def test_files_metadata_does_not_name_are_listed(mini):
    path = mini.folder / "S1/MyPoseFeatures/D3_Positions/Juggling 1.cdf"
    write_cdf(path, np.zeros((2, 32, 3)))
    of = source(mini.folder, subjects=("S1",), actions=("Directions",))
    assert only_reason(of) == "S1/Juggling 1: metadata.xml names no such take"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ("1",)}, "no camera '1'; it has 54138969"),
        ({"actions": ("Juggling",)}, "no action 'Juggling'"),
        ({"trials": (3,)}, "no trial '3'; it has 1, 2"),
        ({"every": 0}, "every 1 or more, got every 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        Human36M(tmp_path, **options)


def test_the_description_says_who_and_how_often(tmp_path):
    text = Human36M(tmp_path, subjects=("S9", "S11"), every=5).description
    assert text == "Human3.6M S9 S11, 4 cameras, every 5th frame of 50 a second"


def test_entries_are_entries(written):
    assert all(isinstance(one, Entry) for one in source(written.folder).entries())
