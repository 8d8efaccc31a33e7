import numpy as np
import pytest
import torch
from PIL import Image

from deformlearn.camera import Crop
from deformlearn.config import RegressorConfig
from deformlearn.data.images import to_pixels
from deformlearn.errors import InputError
from deformlearn.predict import around_box, predict_images, whole_image
from deformlearn.regressor import build_network, predict_dataset

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
    from dataclasses import replace

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
