import os
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from deformlearn import results
from deformlearn.camera import Crop
from deformlearn.config import RegressorConfig
from deformlearn.data.estimates import read_estimates
from deformlearn.data.images import to_pixels
from deformlearn.data.video import VideoWriter, frame_count, frame_rate, read_frames
from deformlearn.errors import InputError
from deformlearn.predict import around_box, predict_crops, predict_images, whole_image
from deformlearn.progress import Watch
from deformlearn.regressor import build_network, predict_dataset, save_network
from deformlearn.results import predict_to_files

TINY = RegressorConfig(backbone="test_resnet", pretrained=False, size=32)


@pytest.fixture(scope="module")
def network(template):
    return build_network(TINY, template, "smpl24")


@pytest.fixture
def photographs(tmp_path):
    paths = []
    for number, (width, height) in enumerate([(40, 60), (64, 32)]):
        noise = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(noise).save(paths[-1])
    return paths


def test_each_image_is_predicted_from_the_square_about_it(network, template, photographs):
    people = predict_images(network, template, photographs)
    assert people.paths == photographs
    torch.testing.assert_close(people.crop.centre, torch.tensor([[20.0, 30.0], [32.0, 16.0]]))
    torch.testing.assert_close(people.crop.half, torch.tensor([30.0, 32.0]))
    pixels = torch.stack(
        [to_pixels(Image.open(path), 32, people.crop[row]) for row, path in enumerate(photographs)]
    )
    expected = predict_dataset(network, pixels)
    for found, wanted in zip(people.estimate.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_box_chooses_the_person_with_a_margin(network, template, photographs):
    boxes = torch.tensor([[10.0, 10.0, 10.0, 20.0], [0.0, 0.0, 64.0, 32.0]])
    cpu = torch.device("cpu")
    people = predict_images(network, template, photographs, boxes, device=cpu, workers=1)
    torch.testing.assert_close(people.crop.centre, torch.tensor([[15.0, 20.0], [32.0, 16.0]]))
    torch.testing.assert_close(people.crop.half, torch.tensor([11.2, 35.84]))


def test_an_unreadable_image_costs_its_row(network, template, photographs, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photographs[0].read_bytes()[:100])
    people = predict_images(network, template, [photographs[0], broken, photographs[1]])
    assert people.paths == photographs
    assert [bad.key for bad in people.unreadable] == [str(broken)]
    assert len(people.estimate) == 2


def test_bad_input_is_refused(network, template, photographs, tmp_path):
    with pytest.raises(InputError, match="no image given"):
        predict_images(network, template, [])
    with pytest.raises(InputError, match=r"no image to predict from: .*gone.png does not exist"):
        predict_images(network, template, [tmp_path / "gone.png"])
    with pytest.raises(InputError, match="2 images need as many boxes, got 1"):
        predict_images(network, template, photographs, torch.ones(1, 4))
    with pytest.raises(InputError, match="trained on template 'octahedra'"):
        predict_images(network, replace(template, name="other"), photographs)
    with pytest.raises(InputError, match="cannot be cut"):
        predict_images(network, template, photographs[:1], torch.zeros(1, 4))


def test_crops_from_image_and_box():
    crop = whole_image(Image.new("RGB", (10, 30)))
    assert isinstance(crop, Crop)
    assert (crop.centre.tolist(), crop.half.item()) == ([5.0, 15.0], 15.0)
    crop = around_box(torch.tensor([1.0, 2.0, 10.0, 4.0]))
    assert crop.centre.tolist() == [6.0, 4.0]
    assert crop.half.item() == pytest.approx(5.6)


@pytest.fixture(scope="module")
def trained(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "network.safetensors"
    save_network(network, path)
    return path


@pytest.fixture
def film(tmp_path):
    """20 frames of a grey that grows; frame i is the picture of brightness 10 i."""
    path = tmp_path / "film.mp4"
    with VideoWriter(path, Fraction(12)) as writer:
        for number in range(20):
            writer.add(np.full((48, 64, 3), 10 * number, np.uint8))
    return path


def said():
    lines = []
    watch = Watch(quiet=True)
    watch.say = lines.append
    return watch, lines


def test_an_image_gets_three_files_and_a_row(trained, template, photographs, tmp_path):
    out = tmp_path / "out"
    people = predict_to_files(trained, photographs, out, template)
    assert people.keys == ["0", "1"]
    assert sorted(path.name for path in out.iterdir()) == [
        "0.npz", "0.obj", "0.png", "1.npz", "1.obj", "1.png", "estimates.parquet",
    ]  # fmt: skip
    stored = read_estimates(out / "estimates.parquet", template)
    assert stored.keys == people.keys
    torch.testing.assert_close(stored.estimate.body.pose, people.estimate.body.pose)
    with Image.open(out / "1.png") as overlay:
        assert overlay.size == (64, 32)


def test_streaming_changes_no_prediction(trained, network, template, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (19, 40, 30, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    at_once = predict_images(network, template, sorted(folder.iterdir()))
    people = predict_to_files(trained, [folder], tmp_path / "out", template)
    assert people.keys == [f"{number:02d}" for number in range(19)]
    for found, wanted in zip(people.estimate.tensors(), at_once.estimate.tensors(), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_a_video_gets_one_overlay_and_a_row_a_frame(trained, template, film, tmp_path):
    out = tmp_path / "out"
    people = predict_to_files(trained, [film], out, template, meshes=False)
    assert people.keys == [f"film_{number:06d}" for number in range(20)]
    assert sorted(path.name for path in out.iterdir()) == ["estimates.parquet", "film.mp4"]
    assert frame_count(out / "film.mp4") == 20
    assert frame_rate(out / "film.mp4") == 12
    corners = [np.asarray(image)[0, 0, 0] for _, image in read_frames(out / "film.mp4", range(20))]
    assert np.abs(np.array(corners, int) - 10 * np.arange(20)).max() <= 4
    torch.testing.assert_close(people.crop.centre[3], torch.tensor([32.0, 24.0]))


def test_meshes_of_a_video_are_written_on_request(trained, template, film, tmp_path):
    predict_to_files(trained, [film], tmp_path / "out", template, meshes=True)
    written = sorted(path.name for path in (tmp_path / "out" / "film").iterdir())
    assert written[:2] == ["film_000000.npz", "film_000000.obj"]
    assert len(written) == 40


def test_a_frame_is_predicted_as_its_image_would_be(trained, template, film, tmp_path):
    ((_, image),) = read_frames(film, [13])
    image.save(tmp_path / "frame.png")
    people = predict_to_files(trained, [film], tmp_path / "a", template)
    alone = predict_to_files(trained, [tmp_path / "frame.png"], tmp_path / "b", template)
    torch.testing.assert_close(
        people.estimate.body.pose[13], alone.estimate.body.pose[0], atol=1e-5, rtol=1e-4
    )


def test_boxes_choose_several_people_of_a_frame(trained, template, film, tmp_path):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "frame,x,y,w,h,track\n2,10,10,20,30,ann\n2,30,10,20,30,bob\n"
        "5,10,10,20,30,\n6,900,10,20,30,eve\n6,10,10,1e7,30,max\n40,1,1,5,5,ann\n7,1,1,0,5,ann\n"
        "8,10,10,20,30,../x\n"
    )
    watch, lines = said()
    people = predict_to_files(trained, [film], tmp_path / "o", template, boxes=boxes, watch=watch)
    assert people.keys == [
        "film_000002_pann", "film_000002_pbob", "film_000005_p0", "film_000008_p0",
    ]  # fmt: skip
    torch.testing.assert_close(people.crop.centre[1], torch.tensor([40.0, 25.0]))
    assert frame_count(tmp_path / "o" / "film.mp4") == 20
    told = "\n".join(lines)
    assert "line 8: a box of 0 x 5 px has no size" in told
    assert "film_000006_peve: its box lies outside the image of 64 x 48 px" in told
    assert "film_000006_pmax: a crop of" in told
    assert "boxes for 1 frames beyond the 20 of" in told
    assert "16 of 20 frames have no box" in told


def test_boxes_of_images_and_of_folders_of_frames(trained, template, photographs, tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"1.png": [[0, 0, 20, 30], [20, 0, 20, 30]]}')
    watch, lines = said()
    out = tmp_path / "o"
    people = predict_to_files(trained, photographs, out, template, boxes=boxes, watch=watch)
    assert people.keys == ["1_p0", "1_p1"]
    assert sorted(path.suffix for path in out.iterdir()) == [
        ".npz", ".npz", ".obj", ".obj", ".parquet", ".png",
    ]  # fmt: skip
    assert any("0.png: no box" in line for line in lines)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, photo in enumerate(photographs):
        photo.rename(folder / f"{number + 1:06d}.png")
    mot = tmp_path / "mot.txt"
    mot.write_text("1,7,1,1,20,20,1,-1,-1,-1\n2,7,2,2,20,20,1,-1,-1,-1\n2,7,3,3,20,20\n")
    people = predict_to_files(trained, [folder], tmp_path / "m", template, boxes=mot, watch=watch)
    assert people.keys == ["000001_p7", "000002_p7", "000002_p7-2"]
    assert "two people are called 000002_p7; the second becomes 000002_p7-2" in lines


def test_what_cannot_be_read_is_listed_and_the_rest_is_kept(
    trained, template, photographs, film, tmp_path
):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[:300])
    broken = tmp_path / "broken.png"
    broken.write_bytes(photographs[0].read_bytes()[:60])
    watch, lines = said()
    sources = [photographs[0], broken, cut, film]
    people = predict_to_files(trained, sources, tmp_path / "o", template, watch=watch)
    assert len(people) == 21
    assert any("broken.png cannot be decoded" in line for line in lines)
    assert any("cut.mp4 is not a video" in line for line in lines)
    with pytest.raises(InputError, match=r"nothing to predict from: .*cut.mp4 is not a video"):
        predict_to_files(trained, [cut], tmp_path / "o", template)


def test_names_never_meet(trained, template, photographs, tmp_path):
    again = tmp_path / "more" / "0.png"
    again.parent.mkdir()
    again.write_bytes(photographs[0].read_bytes())
    people = predict_to_files(trained, [photographs[0], again], tmp_path / "o", template)
    assert people.keys == ["0", "0-2"]


def test_names_never_meet_where_capitals_are_not_told_apart(
    trained, template, photographs, tmp_path
):
    sources = [tmp_path / name / f"{name}.png" for name in "aA"]
    for source in sources:
        source.parent.mkdir()
        source.write_bytes(photographs[0].read_bytes())
    people = predict_to_files(trained, sources, tmp_path / "o", template)
    assert people.keys == ["a", "A-2"]


def test_a_name_that_no_file_can_have_costs_nothing(trained, template, photographs, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    content = photographs[0].read_bytes()
    for name in (b"caf\xe9.png", b"x" * 245 + b".png", b"z.png"):
        (folder / os.fsdecode(name)).write_bytes(content)
    people = predict_to_files(trained, [folder], tmp_path / "o", template)
    assert people.keys == ["caf_", "x" * 180, "z"]
    stored = read_estimates(tmp_path / "o" / "estimates.parquet", template)
    assert stored.keys == people.keys
    assert all((tmp_path / "o" / f"{key}.png").is_file() for key in people.keys)


def test_a_long_track_gives_way_to_its_number(trained, template, photographs, tmp_path):
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"image,x,y,w,h,track\n0.png,0,0,20,30,{'t' * 250}\n0.png,9,0,20,30,ann\n")
    people = predict_to_files(trained, photographs[:1], tmp_path / "o", template, boxes=boxes)
    assert people.keys == ["0_p0", "0_pann"]


@pytest.mark.parametrize("refine", [False, True])
def test_who_the_network_makes_no_person_of_is_left_out_and_named(
    template, photographs, tmp_path, monkeypatch, refine
):
    network = build_network(replace(TINY, auxiliary=True), template, "smpl24")
    save_network(network, tmp_path / "network.safetensors")

    def broken(*people, device):
        estimate, keypoints, confidence = predict_crops(*people, device=device)
        estimate.body.pose[0], keypoints[0] = torch.nan, torch.nan
        return estimate, keypoints, confidence

    monkeypatch.setattr(results, "predict_crops", broken)
    watch, lines = said()
    out, path = tmp_path / "o", tmp_path / "network.safetensors"
    people = predict_to_files(path, photographs, out, template, refine=refine, watch=watch)
    assert people.keys == ["1"]
    assert sorted(file.name for file in out.iterdir())[:3] == ["1.npz", "1.obj", "1.png"]
    assert "left out: 0: what the network says of it is no person" in lines
    with pytest.raises(InputError, match="nothing to predict from: 0: what the network says"):
        predict_to_files(path, photographs[:1], out, template, refine=refine)


def test_refined_videos_carry_their_quality(template, film, tmp_path):
    network = build_network(replace(TINY, auxiliary=True), template, "smpl24")
    save_network(network, tmp_path / "network.safetensors")
    path = tmp_path / "network.safetensors"
    people = predict_to_files(path, [film], tmp_path / "o", template, refine=True)
    assert people.quality is not None
    assert len(people.quality) == len(people.flags) == 20


def test_sources_are_never_written_over_and_bad_requests_are_refused(
    trained, template, photographs, film, tmp_path
):
    before = [path.read_bytes() for path in (film, photographs[0])]
    for source in (film, photographs[0]):
        with pytest.raises(InputError, match=r"would replace .* choose another --out"):
            predict_to_files(trained, [source], tmp_path, template)
    assert [path.read_bytes() for path in (film, photographs[0])] == before
    other = tmp_path / "other.mp4"
    other.write_bytes(film.read_bytes())
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("1,1,1,1,9,9\n")
    with pytest.raises(InputError, match="there are 2 videos; name the video"):
        predict_to_files(trained, [film, other], tmp_path / "o", template, boxes=boxes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        predict_to_files(trained, [tmp_path / "empty"], tmp_path / "o", template)
    with pytest.raises(InputError, match="no image given"):
        predict_to_files(trained, [], tmp_path / "o", template)
    with pytest.raises(InputError, match="holds no trained network"):
        predict_to_files(tmp_path / "empty", [film], tmp_path / "o", template)
    with pytest.raises(InputError, match="trained on template"):
        predict_to_files(trained, [film], tmp_path / "o", replace(template, name="other"))
