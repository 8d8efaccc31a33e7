"""staging.py, synthetic.py: labels are exact, and people can be made again."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from deformlearn.config import SyntheticConfig
from deformlearn.data import photographs, shards, synthetic
from deformlearn.data import truth as truths
from deformlearn.data.labels import KEYPOINTS
from deformlearn.data.photographs import Stage, photograph, to_row
from deformlearn.data.scenery import MARGIN
from deformlearn.data.scenes import stage
from deformlearn.data.staging import (
    LAB_ACTIONS,
    LAB_CAMERAS,
    TEST_SUBJECTS,
    TRAIN_SUBJECTS,
    Studio,
    direct,
    part_of,
    random_stream,
)
from deformlearn.data.synthetic import make_person, synthesize
from deformlearn.errors import InputError

SMALL = SyntheticConfig(train=5, val=1, test=2, size=64, points=60)
LAB = replace(SMALL, people="lab")


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio.open()


@pytest.fixture(scope="module", params=["wild", "lab"])
def person(request, studio):
    """A rendered person, and how they were staged."""
    config = replace(SMALL, people=request.param)
    row, truth = make_person(config, "test", 1)
    return row, truth, set_up(config, "test", 1, studio)


def set_up(config, split, index, studio):
    """One person before the camera."""
    script = direct(config, split, index, studio)
    return stage([script], studio.rig, Stage.on(torch.device("cpu")).crowd, config.size)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data set, written by this process in shards of three."""
    folder = tmp_path_factory.mktemp("people") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "SHARD", 3)
        patch.setattr(synthetic, "_BATCH", 2)
        info = synthesize(folder, SMALL)
    return folder, info


def files(folder):
    """Name and content of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same(first, second):
    """Whether two (row, truth) pairs agree in every bit."""
    for a, b in zip(first, second, strict=True):
        for name, value in vars(a).items():
            if not np.array_equal(value, getattr(b, name)):
                return False
    return True


def test_every_label_projects_to_its_pixel(person):
    row, _, shot = person
    scene = shot.scene
    corners = scene.vertices[0][scene.faces[torch.from_numpy(row.faces)]]
    place = (corners * torch.from_numpy(row.barycentric)[..., None]).sum(1)
    seen = scene.view.to_pixels(scene.view.to_camera(place[None]))[0].numpy()
    assert np.abs(seen - row.points).max() < 1e-3
    assert (row.points % 1 == 0.5).all()
    assert len(np.unique(row.points, axis=0)) == len(row.points) == 60


def test_the_truths_landmarks_project_to_the_key_points(person):
    row, truth, shot = person
    view = shot.scene.view
    pelvis = view.to_camera(shot.joints)[:, :1]
    joints = torch.from_numpy(truth.landmarks_mm / 1000) + pelvis
    np.testing.assert_allclose(view.to_pixels(joints)[0].numpy(), row.keypoints, atol=1e-3)
    assert truth.landmarks_mm.shape == (len(KEYPOINTS), 3)
    assert np.abs(truth.landmarks_mm[0]).max() == 0


def test_the_truths_head_is_up_and_depth_grows_away(person, studio):
    _, truth, shot = person
    config = SMALL if shot.scene.rooms.ground[0] != 0 else LAB
    legs = direct(config, "test", 1, studio).legs
    named = dict(zip(KEYPOINTS, truth.landmarks_mm, strict=True))
    lower = named["neck"][1] - named["head_top"][1]
    assert lower > 150 or legs not in ("stand", "walk", "sit")
    forward = shot.scene.view.rotation[0, 2]
    depth = ((shot.joints[0] - shot.scene.view.position) @ forward).numpy()
    np.testing.assert_allclose(truth.landmarks_mm[:24, 2], (depth - depth[0]) * 1000, atol=0.5)


def test_vertices_belong_to_the_truth_of_val_and_test_only(studio):
    _, truth = make_person(SMALL, "test", 0)
    assert truth.vertices_mm.shape == (13718, 3)
    assert make_person(SMALL, "val", 0)[1].vertices_mm is not None
    assert make_person(SMALL, "train", 0)[1].vertices_mm is None
    top = studio.template.vertices[:, 1].argmax()
    np.testing.assert_allclose(truth.vertices_mm[top], truth.landmarks_mm[-1], atol=1e-2)


def test_the_person_fills_the_crop_but_for_its_margin(person, studio):
    row, _, shot = person
    view = shot.scene.view
    count = len(studio.template.vertices)
    seen = view.to_pixels(view.to_camera(shot.scene.vertices[:, :count]))[0]
    low, high = seen.amin(0), seen.amax(0)
    assert float((high - low).max()) * MARGIN == pytest.approx(64)
    np.testing.assert_allclose((low + high) / 2, [32, 32], atol=1e-9)
    assert row.crop == (32.0, 32.0, 32.0)


def test_the_image_is_a_jpeg_of_the_crop_with_somebody_in_it(person):
    row, _, _ = person
    image = Image.open(io.BytesIO(row.image))
    assert image.format == "JPEG"
    assert image.size == (64, 64)
    pixels = np.asarray(image, dtype=float)
    assert pixels.std() > 5
    assert 20 < pixels.mean() < 235


def test_a_person_is_made_again_alone_and_on_any_number_of_threads():
    first = make_person(SMALL, "train", 3)
    threads = torch.get_num_threads()
    make_person(SMALL, "test", 0)
    torch.set_num_threads(2)
    try:
        assert same(first, make_person(SMALL, "train", 3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("other", [(0, "train", 4), (0, "val", 3), (1, "train", 3)])
def test_another_seed_split_or_index_is_another_person(other):
    seed, split, index = other
    again = make_person(replace(SMALL, seed=seed), split, index)
    assert make_person(SMALL, "train", 3)[0].image != again[0].image


def test_the_number_of_people_changes_none_of_them():
    assert same(make_person(SMALL, "train", 2), make_person(replace(SMALL, train=9), "train", 2))


def test_quality_changes_labels_but_not_the_picture():
    exact, _ = make_person(SMALL, "train", 0)
    rough, _ = make_person(replace(SMALL, quality="predicted"), "train", 0)
    assert exact.image == rough.image
    assert not np.array_equal(exact.keypoints, rough.keypoints)


def test_a_data_set_can_be_read_back(made):
    folder, info = made
    assert shards.read_info(folder) == info
    assert info.landmarks == KEYPOINTS
    people = shards.read_people(folder, "train")
    assert people.keys == [f"train-{i:06d}" for i in range(5)]
    assert people.observations.points.abs().max() < 1
    row, truth = make_person(SMALL, "test", 1)
    found = truths.read_truth(folder, "test")
    np.testing.assert_allclose(found.landmarks_mm[1].numpy(), truth.landmarks_mm, atol=1e-3)
    np.testing.assert_allclose(found.vertices_mm[1].numpy(), truth.vertices_mm, atol=0.051)
    assert truths.read_truth(folder, "train").vertices_mm is None
    assert [image for _, image, _ in shards.read_images(folder, "test")][1] == row.image


def test_two_processes_write_the_same_bytes_as_one(made, tmp_path, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(synthetic, "SHARD", 3)
    monkeypatch.setattr(synthetic, "_BATCH", 2)
    synthesize(tmp_path / "set", SMALL, workers=2)
    assert files(tmp_path / "set") == files(folder)


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch):
    folder, _ = made
    monkeypatch.setattr(synthetic, "SHARD", 3)
    monkeypatch.setattr(synthetic, "_BATCH", 1)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "set", SMALL, progress=stop)
    half = files(tmp_path / "set")
    assert "observations/train-00000.parquet" in half
    assert "observations/train-00001.parquet" not in half
    stale = tmp_path / "set" / "observations" / ".train-00001.parquet.123.part"
    stale.write_bytes(b"half a file")
    steps = []
    synthesize(tmp_path / "set", SMALL, progress=lambda done, total: steps.append((done, total)))
    assert steps[0] == (3, 8)
    assert steps[-1] == (8, 8)
    assert files(tmp_path / "set") == files(folder)


@pytest.mark.parametrize("kind", ["observations", "truth"])
def test_a_shard_that_went_missing_is_made_again(made, tmp_path, monkeypatch, kind):
    folder, _ = made
    monkeypatch.setattr(synthetic, "SHARD", 3)
    copy = tmp_path / "set"
    for name, content in files(folder).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    (copy / kind / "test-00000.parquet").unlink()
    synthesize(copy, SMALL)
    assert files(copy) == files(folder)


def test_a_folder_made_with_another_configuration_is_refused(made):
    folder, _ = made
    with pytest.raises(InputError, match=r"another configuration.*size 64 instead of 96"):
        synthesize(folder, replace(SMALL, size=96))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="not empty"):
        synthesize(tmp_path, SMALL)


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        synthesize(tmp_path / "file" / "set", SMALL)


def test_a_damaged_recipe_is_named(tmp_path):
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(InputError, match=r"synthetic\.json is damaged"):
        synthesize(tmp_path, SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 8}, "size of at least 32"),
        ({"points": 0}, "points of at least 1"),
        ({"train": -1}, "train must be a number of at least 0"),
        ({"train": 0, "val": 0, "test": 0}, "at least one image"),
        ({"swaps": 1.5}, "swaps is a share"),
        ({"noise": -0.1}, "noise must be a number of at least 0"),
        ({"seed": -1}, "seed must be a number of at least 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        synthesize(tmp_path / "set", replace(SMALL, **change))


def test_no_process_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1 process, got workers 0"):
        synthesize(tmp_path / "set", SMALL, workers=0)
    assert not (tmp_path / "set").exists()


def test_the_lab_has_human36ms_subjects_actions_and_cameras():
    random = random_stream(LAB, "nothing")
    for split, subjects in (
        ("train", TRAIN_SUBJECTS),
        ("val", TRAIN_SUBJECTS),
        ("test", TEST_SUBJECTS),
    ):
        parts = [part_of(LAB, split, index, random) for index in range(600)]
        assert {part.subject for part in parts} == set(subjects)
        assert {part.camera for part in parts} == set(LAB_CAMERAS)
        assert {part.action for part in parts} == set(LAB_ACTIONS)
        seen = {(part.subject, part.action, part.camera, part.frame) for part in parts}
        assert len(seen) == 600
    assert len(LAB_ACTIONS) == 15


def test_four_images_in_a_row_are_four_views_of_one_moment(studio):
    scripts = [direct(LAB, "test", index, studio) for index in range(4)]
    assert len({script.part.camera for script in scripts}) == 4
    shot = stage(scripts, studio.rig, Stage.on(torch.device("cpu")).crowd, 64)
    torch.testing.assert_close(shot.joints, shot.joints[:1].expand(4, -1, -1))
    assert len({script.place.seed for script in scripts}) == 1
    forward = np.stack([script.rotation[2] for script in scripts])
    # Neighbouring cameras look at right angles to each other, but for looking down a little.
    assert np.abs(np.sort((forward @ forward.T)[0])[1:3]).max() < 0.05


def test_a_subject_of_the_lab_keeps_body_and_clothes_but_not_the_pose(studio):
    first, later, other = (direct(LAB, "test", index, studio) for index in (0, 8, 4))
    assert first.part.subject == later.part.subject
    assert first.part.action != later.part.action
    np.testing.assert_array_equal(first.figure.shape, later.figure.shape)
    np.testing.assert_array_equal(first.outfit.skin, later.outfit.skin)
    assert not np.array_equal(first.figure.rotations, later.figure.rotations)
    assert other.part.subject != first.part.subject
    assert not np.array_equal(other.figure.shape, first.figure.shape)


def test_who_sits_has_something_to_sit_on(studio):
    body, count = len(studio.rig.faces), len(studio.template.vertices)
    seated = 0
    for index in range(12):
        script = direct(SMALL, "train", index, studio)
        shot = set_up(SMALL, "train", index, studio)
        extra = len(shot.scene.faces) - body
        assert (extra > 0) == (script.legs == "sit") == (script.chair is not None)
        if extra:
            seated += 1
            hips = shot.joints[0, 1:3, 1].mean()
            chair = shot.scene.vertices[0, count:, 1]
            assert chair.min() > shot.scene.rooms.ground[0] - 0.01
            assert hips - chair.quantile(0.5) > -0.4
    assert seated > 0


@pytest.mark.parametrize("people", ["wild", "lab"])
def test_a_batch_has_the_labels_and_pictures_of_one_after_the_other(studio, people):
    """Labels to the bit, among them seated and standing people; pictures to a rounding here or there."""
    config = replace(SMALL, people=people)
    scripts = [direct(config, "train", index, studio) for index in range(12)]
    assert len({script.chair is None for script in scripts}) == 2 or people == "lab"
    where = Stage.on(torch.device("cpu"))
    together = photograph(scripts, config.size, where)
    for index, (script, shot) in enumerate(zip(scripts, together, strict=True)):
        (alone,) = photograph([script], config.size, where)
        np.testing.assert_array_equal(shot.pixels, alone.pixels)
        np.testing.assert_array_equal(shot.faces, alone.faces)
        np.testing.assert_array_equal(shot.barycentric, alone.barycentric)
        np.testing.assert_allclose(shot.keypoints, alone.keypoints, atol=1e-5)
        np.testing.assert_allclose(shot.landmarks_mm, alone.landmarks_mm, atol=1e-3)
        np.testing.assert_allclose(shot.vertices_mm, alone.vertices_mm, atol=1e-3)
        apart = np.abs(shot.image.astype(int) - alone.image)
        assert (apart > 1).mean() < 2e-3
        batched, one = (
            to_row(config, "train", index, script, each, studio)[0] for each in (shot, alone)
        )
        for name in ("points", "faces", "barycentric"):
            np.testing.assert_array_equal(getattr(batched, name), getattr(one, name))


def test_the_way_of_a_gpu_makes_the_labels_of_the_others(made, tmp_path, monkeypatch):
    """The pipeline of batches, on the device at hand."""
    folder, _ = made
    monkeypatch.setattr(synthetic, "SHARD", 3)
    monkeypatch.setattr(synthetic, "_BATCH", 2)
    monkeypatch.setattr(synthetic, "_made", synthetic._batched)
    synthesize(tmp_path / "set", SMALL, device="cpu")
    for split, count in (("train", 5), ("test", 2)):
        ours, theirs = (shards.read_people(each, split) for each in (tmp_path / "set", folder))
        assert ours.keys == theirs.keys
        assert len(ours.keys) == count
        for first, second in zip(
            ours.observations.tensors(), theirs.observations.tensors(), strict=True
        ):
            torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_the_way_of_a_gpu_makes_the_same_bytes_in_one_process_and_in_several(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "PIECE", 2)
    monkeypatch.setattr(synthetic, "PIECE", 2)
    monkeypatch.setattr(synthetic, "_BATCH", 3)
    monkeypatch.setattr(synthetic, "_made", synthetic._batched)
    for name, workers in (("one", 1), ("two", 2)):
        synthesize(tmp_path / name, SMALL, workers=workers, device="cpu")
    assert files(tmp_path / "two") == files(tmp_path / "one")


def test_a_folder_in_which_a_run_was_killed_at_its_first_file_is_gone_on_with(tmp_path):
    part = tmp_path / ".synthetic.json.123.part"
    part.write_text("{")
    (tmp_path / ".lock").touch()
    synthesize(tmp_path, replace(SMALL, train=1, val=0, test=0), device="cpu")
    assert not part.exists()


def test_a_folder_that_another_process_fills_is_refused_and_a_foreign_one_gets_no_lock(tmp_path):
    folder = tmp_path / "people"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another process is working"):
        synthesize(folder, SMALL, device="cpu")
    assert not (folder / "synthetic.json").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        synthesize(foreign, SMALL, device="cpu")
    assert [path.name for path in foreign.iterdir()] == ["notes.txt"]


def test_larger_pictures_are_taken_fewer_at_once():
    assert [synthetic._at_once(size) for size in (64, 256, 512, 2**20)] == [250, 250, 62, 1]


def test_people_who_do_not_fit_on_a_gpu_are_photographed_fewer_at_once(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(synthetic, "_made", synthetic._batched)
    monkeypatch.setattr(synthetic, "_BATCH_ON_GPU", 4)
    config = replace(SMALL, train=5, test=0)
    synthesize(tmp_path / "whole", config, device="cpu")
    sizes = []

    def cramped(scripts, size, where):
        sizes.append(len(scripts))
        if len(scripts) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return photograph(scripts, size, where)

    monkeypatch.setattr(synthetic, "photograph", cramped)
    room = 2
    synthesize(tmp_path / "parts", config, device="cpu")
    assert sizes[:4] == [4, 2, 2, 1]
    assert "out of memory: from now on 2 images at a time (CUDA out of memory)" in caplog.text
    ours, theirs = (shards.read_people(tmp_path / name, "train") for name in ("parts", "whole"))
    assert ours.keys == theirs.keys
    for first, second in zip(
        ours.observations.tensors(), theirs.observations.tensors(), strict=True
    ):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)
    room = 0
    with pytest.raises(InputError, match="out of memory for one of the images"):
        synthesize(tmp_path / "none", config, device="cpu")


def test_people_of_another_template_are_not_mixed_in(made, monkeypatch):
    folder, _ = made
    other = Studio.open()
    changed = replace(other.template, vertices=other.template.vertices * 2)
    monkeypatch.setattr(Studio, "open", lambda: replace(other, template=changed))
    with pytest.raises(InputError, match=r"another configuration.*template"):
        synthesize(folder, SMALL)
