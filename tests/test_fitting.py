"""Files to bodies: our data sets, and real photographs where they are at hand."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from deformlearn import fitting
from deformlearn.config import LifterConfig, RegistrationConfig
from deformlearn.data import predictions
from deformlearn.data.densepose import halve_points
from deformlearn.data.estimates import read_estimates
from deformlearn.data.shards import DatasetInfo, write_info, write_rows
from deformlearn.errors import InputError
from deformlearn.estimate import project_points
from deformlearn.progress import Watch
from densepose_files import planted_people, write_challenge, write_dump
from tiny_runs import planted_rows

QUICK = RegistrationConfig(first_iterations=1, iterations=4)


@pytest.fixture
def folder(template, planted, tmp_path):
    write_info(tmp_path / "data", DatasetInfo(template.name, template.fingerprint, "coco17"))
    rows = planted_rows(planted(template, 3, joints="coco17")[1])
    broken = replace(rows[1], key="broken", points=np.full_like(rows[1].points, np.nan))
    write_rows(tmp_path / "data", "train", 0, [rows[0], broken, rows[2]])
    return tmp_path


def test_a_data_set_is_fitted_and_its_bad_rows_are_listed(template, folder, capsys):
    found = fitting.fit_dataset(
        folder / "data", folder / "out", "train", template, RegistrationConfig(), watch=Watch()
    )
    assert (found.people, found.rejected) == (2, 1)
    assert "broken" in capsys.readouterr().err
    assert found.reprojection_px < 2
    back = read_estimates(folder / "out" / "estimates.parquet", template)
    assert back.keys == ["p00", "p02"]
    surface = template.landmarks
    seen = back.crop.to_pixels(project_points(template, back.estimate, surface)[..., :2])
    assert (seen - torch.tensor([200.0, 150.0])).abs().max() < 160


def test_finished_fits_of_anything_else_are_kept(template, planted, folder):
    data, out = folder / "data", folder / "out"
    fits = out / "estimates.parquet"
    fitting.fit_dataset(data, out, "train", template, QUICK)
    before = fits.read_bytes()
    write_rows(data, "other", 0, planted_rows(planted(template, 2, joints="coco17")[1]))
    longer = replace(QUICK, iterations=5)
    for split, config in (("other", QUICK), ("train", longer)):
        with pytest.raises(
            InputError, match=r"estimates of other data.*; give another --out, or delete"
        ):
            fitting.fit_dataset(data, out, split, template, config)
    assert fits.read_bytes() == before
    assert fitting.fit_dataset(data, out, "train", template, QUICK).fitted == 0
    fits.write_bytes(before[:-30])  # damaged: nothing that could be kept
    assert fitting.fit_dataset(data, out, "train", template, longer).fitted == 2
    fits.unlink()
    assert fitting.fit_dataset(data, out, "train", template, QUICK).fitted == 2
    assert fits.read_bytes() == before


def test_the_error_of_a_person_is_relative_to_its_size():
    person = fitting.PersonReport("a", 10, 0, 200.0, 4.0, None, 1.0, "ok")
    assert person.error_percent == 2.0
    assert replace(person, held_out_px=1.0).error_percent == 0.5


def test_halves_share_no_point_and_lose_none(template, planted):
    row = planted_rows(planted(template, 1, joints="coco17")[1])[0]
    first, second = halve_points(row, seed=3)
    both = np.concatenate([first.points, second.points])
    assert len(first.points) == len(second.points) == 30
    assert {tuple(p) for p in both} == {tuple(p) for p in row.points}


def test_a_lifter_is_trained_once_and_kept(tmp_path):
    poses = np.random.default_rng(0).normal(size=(50, 34))
    np.save(tmp_path / "poses.npy", poses)
    config = LifterConfig(width=8, steps=4, batch=4)
    made = fitting.lifter_from_poses(tmp_path / "poses.npy", "h36m17", tmp_path / "out", config)
    again = fitting.lifter_from_poses(tmp_path / "poses.npy", "h36m17", tmp_path / "out", config)
    for a, b in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_kept_lifter_of_other_poses_joints_or_settings_is_refused(tmp_path):
    poses = np.random.default_rng(0).normal(size=(50, 34))
    np.save(tmp_path / "poses.npy", poses)
    np.save(tmp_path / "other.npy", poses + 1)
    config = LifterConfig(width=8, steps=4, batch=4)
    fitting.lifter_from_poses(tmp_path / "poses.npy", "h36m17", tmp_path, config)
    kept = (tmp_path / "lifter.safetensors").read_bytes()
    longer = replace(config, steps=5)
    for name, joints, settings in (
        ("other", "h36m17", config), ("poses", "h36m17_left_first", config), ("poses", "h36m17", longer)
    ):  # fmt: skip
        with pytest.raises(
            InputError, match=rf"not trained on the poses of .*{name}\.npy as {joints}"
        ):
            fitting.lifter_from_poses(tmp_path / f"{name}.npy", joints, tmp_path, settings)
    with pytest.raises(InputError, match="cannot read 2D poses"):
        fitting.lifter_from_poses(tmp_path / "gone.npy", "h36m17", tmp_path, config)
    assert (tmp_path / "lifter.safetensors").read_bytes() == kept


def test_a_densepose_photograph_becomes_bodies(anny, shared, tmp_path, capsys):
    folder = shared / "densepose"
    found = fitting.fit_photograph(
        folder / "demo_im.jpg",
        folder / "demo_im_IUV.png",
        folder / "demo_im_INDS.png",
        folder / "UV_Processed.mat",
        tmp_path,
        anny,
        RegistrationConfig(),
        watch=Watch(),
    )
    assert len(found) == 5  # everyone over 1500 px
    whole = [one for one in found if one.key in ("demo_im-18", "demo_im-19")]
    assert all(one.error_percent <= 1.2 for one in whole)
    assert all(one.facing > 0.9 for one in whole)
    assert all(one.facing > 0.7 for one in found)  # of half a body seen, some points face away
    hidden = [one for one in found if one.key in ("demo_im-07", "demo_im-14")]
    assert all("hidden" in one.flag for one in hidden)
    assert "left out: person" in capsys.readouterr().err
    assert (tmp_path / "sheet.png").exists()
    assert (tmp_path / "overlay-demo_im.png").exists()


@pytest.fixture
def one_person(shared, tmp_path):
    """The woman in front, in every format: folder of the photo, and path and INDS of each."""
    here = shared / "densepose"
    v, u, part = np.moveaxis(np.asarray(Image.open(here / "demo_im_IUV.png")), -1, 0)
    inds = np.asarray(Image.open(here / "demo_im_INDS.png"))
    mine = (part > 0) & (inds == 18)
    iuv = np.where(mine[..., None], np.stack([v, u, part], -1), 0)
    Image.fromarray(iuv.astype(np.uint8)).save(tmp_path / "demo_im_IUV.png")
    people = planted_people(np.where(mine, part, 0), u, v, np.zeros_like(inds))
    images = {"demo_im.jpg": people}
    paths = [tmp_path / "demo_im_IUV.png", tmp_path, write_challenge(tmp_path / "r.json", images)]
    for kind, how in (("2019", "pickle"), ("plain", "pickle"), ("plain", "zip")):
        paths.append(write_dump(tmp_path / f"{kind}-{how}", kind, images, how))
    return here, paths


def test_every_format_gives_the_same_registration(one_person, anny, tmp_path):
    here, paths = one_person
    fitted = []
    for number, path in enumerate(paths):
        out = tmp_path / f"out{number}"
        (report,) = fitting.fit_photograph(
            here / "demo_im.jpg", path, None, here / "UV_Processed.mat", out, anny,
            RegistrationConfig(iterations=10),
        )  # fmt: skip
        back = read_estimates(out / "estimates.parquet", anny)
        seen = back.crop.to_pixels(project_points(anny, back.estimate, anny.landmarks)[..., :2])
        fitted.append(seen[0])
        apart = (seen[0] - fitted[0]).norm(dim=-1).max().item()
        assert apart <= 1e-3 * report.size_px, path
    assert not torch.equal(fitted[0], torch.zeros_like(fitted[0]))


def test_a_photo_that_the_results_do_not_name_is_refused(one_person, anny, tmp_path):
    here, paths = one_person
    photo = tmp_path / "other.jpg"
    photo.write_bytes((here / "demo_im.jpg").read_bytes())
    for path in paths[1:]:
        with pytest.raises(InputError, match=r"no prediction of other\.jpg among its 1 images"):
            fitting.fit_photograph(
                photo, path, None, here / "UV_Processed.mat", tmp_path / "out", anny, QUICK
            )
    # An IUV image that is given by itself is taken at its word.
    found = fitting.fit_photograph(
        photo, paths[0], None, here / "UV_Processed.mat", tmp_path / "out", anny, QUICK
    )
    assert [one.key for one in found] == ["other-00"]


def test_left_and_right_swapped_labels_are_flagged(anny, shared, tmp_path, monkeypatch):
    """DensePose's parts with left and right exchanged: a body seen from inside."""
    folder = shared / "densepose"
    swap = np.array(
        [0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23]
    )
    right = predictions.read_iuv

    def swapped(*arguments, **options):
        return [replace(one, part=swap[one.part]) for one in right(*arguments, **options)]

    monkeypatch.setattr(predictions, "read_iuv", swapped)
    found = fitting.fit_photograph(
        folder / "demo_im.jpg", folder / "demo_im_IUV.png", folder / "demo_im_INDS.png",
        folder / "UV_Processed.mat", tmp_path, anny, RegistrationConfig(),
    )  # fmt: skip
    person = next(one for one in found if one.key == "demo_im-19")
    assert person.facing < 0.9 or person.flag != "ok"


def test_coco_key_points_become_bodies(anny, shared, tmp_path):
    config = LifterConfig(width=32, steps=300, batch=64, hidden=0.3, average=0.98)
    made = fitting.lifter_from_poses(
        shared / "poses2d" / "mpii_poses.npy", "h36m17", tmp_path, config
    )
    assert made.sees_hidden
    found = fitting.fit_keypoints(
        shared / "photos" / "person_keypoints.json", shared / "photos", tmp_path, anny,
        RegistrationConfig(), lifter=made,
    )  # fmt: skip
    assert len(found) >= 16
    errors = sorted(one.error_percent for one in found)
    assert errors[len(errors) // 2] < 3
    assert (tmp_path / "sheet.png").stat().st_size > 100_000


def test_nobody_to_fit_is_refused(template, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "keypoints": [0] * 51}],
    }
    (tmp_path / "k.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"nobody with 10 labelled key points .* left out$"):
        fitting.fit_keypoints(tmp_path / "k.json", tmp_path, tmp_path / "out", template, QUICK)


@pytest.mark.parametrize(("count", "lines"), [(12, 12), (13, 1)])
def test_many_annotations_that_are_left_out_are_counted(template, tmp_path, count, lines):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [
            {"id": 5 + number, "image_id": 1, "keypoints": [0] * 51} for number in range(count)
        ],
    }
    (tmp_path / "k.json").write_text(json.dumps(content))
    said = io.StringIO()
    watch = Watch(console=Console(file=said, width=300))
    with pytest.raises(InputError, match=f"all {count} annotations were left out"):
        fitting.fit_keypoints(
            tmp_path / "k.json", tmp_path, tmp_path / "out", template, QUICK, watch=watch
        )
    found = [line for line in said.getvalue().splitlines() if line.startswith("left out: ")]
    assert len(found) == lines
    if lines == 1:
        assert found[0].startswith("left out: 13 annotations: 13 x ")


def test_key_points_whose_images_are_not_there_are_refused_for_that(template, tmp_path):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "keypoints": [10, 20, 2] * 17}],
    }
    (tmp_path / "k.json").write_text(json.dumps(content))
    for images, said in (
        (tmp_path, r"left out \(1 as its image .*a\.jpg is missing"),
        (tmp_path / "k.json", r"k\.json is a file; with --keypoints give the folder"),
        (tmp_path / "gone", r"gone is not there; with --keypoints give the folder"),
    ):
        with pytest.raises(InputError, match=said):
            fitting.fit_keypoints(tmp_path / "k.json", images, tmp_path / "out", template, QUICK)
