"""Every format of DensePose's results, written as the official tools do, gives the same people."""

import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deformlearn.data.densepose import photo_size, read_iuv
from deformlearn.data.densepose_dumps import read_dump
from deformlearn.data.densepose_labels import window_of_floats
from deformlearn.data.predictions import open_predictions
from deformlearn.densepose_charts import densepose_to_template, read_densepose_charts
from deformlearn.torchfiles import StoredTensor, load_torch
from densepose_files import (
    DUMPS,
    SIZE,
    TWO,
    assert_planted,
    challenge_result,
    densepose_modules,
    dump_entry,
    people_in,
    person,
    planted_people,
    png_text,
    write_challenge,
    write_dump,
    write_value,
)

# Formats


def test_a_challenge_json_gives_its_people(tmp_path):
    path = write_challenge(tmp_path / "r.json", {785: TWO, 1000: [person()]})
    assert_planted(people_in(path, "COCO_val2014_000000000785.jpg"), TWO)
    assert_planted(people_in(path, "1000.png"), [person()])
    assert open_predictions(path).of(tmp_path / "a.jpg") is None


def test_a_challenge_json_of_names_or_of_ids_that_a_list_names(tmp_path):
    assert_planted(people_in(write_challenge(tmp_path / "r.json", {"x/a.jpg": TWO})), TWO)
    path = write_challenge(tmp_path / "s.json", {10128340000: TWO, 7: [person()]})
    images = {"images": [{"id": 10128340000, "file_name": "v/000001.jpg"}]}
    (tmp_path / "list.json").write_text(json.dumps(images))
    opened = open_predictions(path, image_list=tmp_path / "list.json")
    assert_planted(opened.of(tmp_path / "v" / "000001.jpg").people(SIZE), TWO)
    assert "no image with the id 7" in opened.rejected[0].reason


def test_only_a_format_s_suffix_is_cut_off_an_image_s_name(tmp_path):
    names = ("S9_Walking_1.60457274_000005", "S9_Walking_1.60457274_000006", "a.b.PNG")
    images = {name: [one] for name, one in zip(names, [*TWO, person()], strict=True)}
    for path in (
        write_challenge(tmp_path / "r.json", images),
        write_dump(tmp_path / "d.pkl", "plain", images),
    ):
        opened = open_predictions(path)
        assert list(opened.images) == [*names[:2], "a.b"]
        assert_planted(opened.of(tmp_path / f"{names[1]}.jpg").people(SIZE), TWO[1:])


def test_images_that_names_without_suffixes_do_not_tell_apart_are_rejected(tmp_path):
    images = {"a.jpg": TWO, "b.jpg": [person()], "a.png": [person()], ".": TWO[:1], "/": TWO[:1]}
    json_rejects = open_predictions(write_challenge(tmp_path / "r.json", images)).rejected
    dumped = open_predictions(write_dump(tmp_path / "d.pkl", "plain", images))
    assert list(dumped.images) == ["b"]
    assert [one.reason for one in dumped.rejected] == [
        "'.' names no image",
        "'/' names no image",
        *["a.jpg and a.png differ in their suffix alone; rename one of the images"] * 2,
    ]
    assert [one.where.rpartition(" ")[2] for one in json_rejects] == ["4", "5", "0", "1", "3"]


def test_a_challenge_json_written_by_opencv_is_turned_round(tmp_path):
    result = challenge_result(TWO[0], 1)
    result["uv_data"] = png_text(TWO[0].iuv[::-1])
    (tmp_path / "r.json").write_text(json.dumps([result]))
    assert_planted(people_in(tmp_path / "r.json", "1.jpg"), TWO[:1])


@pytest.mark.parametrize(("kind", "how"), DUMPS)
def test_a_dump_of_every_generation_gives_its_people(tmp_path, kind, how):
    path = write_dump(tmp_path / "d.pkl", kind, {"in/a.jpg": TWO, "in/b.jpg": [person()]}, how)
    assert_planted(people_in(path), TWO, 2e-7)
    assert_planted(people_in(path, "somewhere/in/b.png"), [person()], 2e-7)


def test_boxes_may_be_lists_or_arrays_and_scores_may_be_missing(tmp_path):
    with densepose_modules() as classes:
        entry = dump_entry(classes, "plain", "a.jpg", TWO)
        entry["pred_boxes_XYXY"] = entry["pred_boxes_XYXY"].tolist()
        del entry["scores"]
        other = dump_entry(classes, "plain", "b.jpg", TWO)
        other["pred_boxes_XYXY"] = other["pred_boxes_XYXY"].numpy()
        write_value(tmp_path / "d.pkl", [entry, other], "pickle")
    people, rejected = people_in(tmp_path / "d.pkl")
    assert not rejected
    assert [one.score for one in people] == [None, None]
    assert people[0].box[0] == 81  # without scores, in the order of the file
    assert len(people_in(tmp_path / "d.pkl", "b.jpg")[0]) == 2


def test_numbers_stay_in_a_dump_until_they_are_asked_for(tmp_path):
    path = write_dump(tmp_path / "d.pt", "plain", {"a.jpg": TWO, "b.jpg": TWO})
    images = dict(read_dump(path))
    assert isinstance(images["a.jpg"].results[0].labels, StoredTensor)
    assert len(pickle.dumps(images["b.jpg"])) < 4000  # as it is sent to a worker
    sent = pickle.loads(pickle.dumps(images["b.jpg"]))
    assert_planted(sent.people(SIZE), TWO, 2e-7)
    with zipfile.ZipFile(path) as archive:
        assert max(info.file_size for info in archive.infolist()) > 4000


def test_stored_tensors_are_what_torch_saved(tmp_path):
    whole = torch.arange(100.0).reshape(10, 10)
    value = {
        "half": whole.half(), "turned": whole.T, "slice": whole[2:4, 3:7], "bool": whole > 3,
        "byte": whole.byte(), "empty": torch.zeros(0, 4), "number": torch.tensor(3.5),
        "long": torch.arange(4),
    }  # fmt: skip
    for how in ("zip", "older", "pickle"):
        back = load_torch(write_value(tmp_path / how, value, how), {}, "tensors")
        for name, tensor in value.items():
            read = back[name].read()
            assert read.dtype == tensor.numpy().dtype
            np.testing.assert_array_equal(read, tensor.numpy())


def test_confidences_become_weights(tmp_path):
    """Sigma_2 is a logit: its variance is softplus(sigma_2) + 0.01; kappas add half their squares."""
    one = person(score=0.9)
    shape = one.labels.shape
    sigma = torch.full(shape, -30.0)
    sigma[:30] = 0.0
    kappa = torch.full(shape, 0.2)
    kappa[:, :20] = 0
    more = [(None, sigma, kappa, kappa * 0, None, None)]
    path = write_dump(tmp_path / "d.pt", "confident", {"a.jpg": [one]}, confidences=more)
    ((found,), _) = people_in(path)
    softplus = np.log(2)
    wanted = {
        (0, 0): 0.01 / (softplus + 0.01),
        (0, 1): 0.01 / (softplus + 0.01 + 0.02),
        (1, 0): 1.0,
        (1, 1): 0.01 / 0.03,
    }
    x, y = (found.pixels - [one.left, one.top]).T
    for (below, right), weight in wanted.items():
        mine = ((y >= 30) == below) & ((x >= 20) == right)
        np.testing.assert_allclose(found.weights[mine], weight, rtol=1e-5)


def test_labels_that_are_no_numbers_are_left_out_without_a_warning():
    """Also those that a processor signals when it converts them."""
    signalling = np.array([[[0x7F800001, 0x3F000000]]] * 2, np.uint32).view(np.float32)
    window = window_of_floats(np.ones((1, 2), int), signalling, None)
    assert np.isfinite(window.uv).all(0).tolist() == [[False, True]]


def test_confidences_that_are_no_numbers_weigh_nothing():
    window = window_of_floats(
        np.ones((1, 3), int), np.zeros((2, 1, 3)), np.array([[0.0, np.nan, np.inf]])
    )
    assert window.weights[0, 0] > 0
    assert window.weights[0, 1:].tolist() == [0, 0]


def test_pixels_outside_the_image_are_left_out_and_boxes_outside_are_rejected(tmp_path):
    planted = [person(left=-10, score=0.7), person(top=90, score=0.8), person(left=500, score=0.9)]
    people, rejected = people_in(write_dump(tmp_path / "d.pt", "plain", {"a.jpg": planted}))
    assert [one.box[0] for one in people] == [0, 21]
    assert people[1].box[3] == 120
    assert all("cut by the frame" in one.notes for one in people)
    assert "lies outside the image" in rejected[0].reason
    unknown, _ = people_in(tmp_path / "d.pt", size=None)
    assert len(unknown[-1].pixels) == 39 * 70


def test_low_scores_are_left_out_and_keep_their_place_in_the_count(tmp_path):
    planted = [person(score=0.9), person(left=90, score=0.3)]
    people, rejected = people_in(write_dump(tmp_path / "d.pt", "plain", {"a.jpg": planted}))
    assert [one.index for one in people] == [1]
    assert "score 0.30" in rejected[0].reason


# One photograph in every format


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """The real prediction in every format: folder, charts, and path of each."""
    here = shared / "densepose"
    v, u, part = np.moveaxis(np.asarray(Image.open(here / "demo_im_IUV.png")), -1, 0)
    inds = np.asarray(Image.open(here / "demo_im_INDS.png"))
    people = planted_people(part, u, v, inds)
    folder = tmp_path_factory.mktemp("formats")
    paths = {"json": write_challenge(folder / "demo.json", {"demo_im.jpg": people})}
    for kind, how in DUMPS:
        name = f"{kind}-{how}"
        paths[name] = write_dump(folder / name, kind, {"demo_im.jpg": people}, how)
    return here, paths


def test_the_real_photo_has_the_same_surface_points_in_every_format(real, anny):
    here, paths = real
    photo = here / "demo_im.jpg"
    size = photo_size(photo)
    charts = read_densepose_charts(here / "UV_Processed.mat")
    wanted = [
        one
        for one in read_iuv(here / "demo_im_IUV.png", here / "demo_im_INDS.png", size)
        if one.usable
    ]
    corners = anny.vertices.double().numpy()[anny.faces.numpy()]

    def places(one, some):
        faces, barycentric, ok = densepose_to_template(
            charts, anny, one.part[some], one.u[some], one.v[some]
        )
        return np.einsum("nc,ncd->nd", barycentric, corners[faces]), ok

    expected = [places(one, np.s_[::10]) for one in wanted]
    for path in paths.values():
        people, rejected = open_predictions(path).of(photo).people(size)
        assert not rejected
        usable = [one for one in people if one.usable]
        assert [len(one.part) for one in usable] == [len(one.part) for one in wanted]
        for one, other, (truth, ok) in zip(usable, wanted, expected, strict=True):
            np.testing.assert_array_equal(one.pixels, other.pixels)
            found, also = places(one, np.s_[::10])
            np.testing.assert_array_equal(ok, also)
            np.testing.assert_array_equal(found, truth)


def test_labels_of_floats_are_not_rounded_to_eight_bits(tmp_path):
    planted = person()
    finer = replace(planted, uv=np.where(planted.labels > 0, planted.uv + 0.3, 0))
    ((one,), _) = people_in(write_dump(tmp_path / "d.pt", "plain", {"a.jpg": [finer]}))
    steps = one.u * 255 % 1
    np.testing.assert_allclose(steps, 0.3, atol=1e-4)
