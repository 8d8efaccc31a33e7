import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deformlearn.camera import FACING_CAMERA, Camera, Crop, gram_schmidt, project


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_gram_schmidt_is_orthonormal_and_keeps_the_sign_of_the_determinant(seed):
    matrix = torch.randn(
        5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    rotation = gram_schmidt(matrix)
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3)
    )
    torch.testing.assert_close(torch.linalg.det(rotation), torch.linalg.det(matrix).sign())


def test_gram_schmidt_leaves_a_rotation_alone():
    rotation = torch.tensor(FACING_CAMERA)
    torch.testing.assert_close(gram_schmidt(rotation), rotation)


def test_gram_schmidt_has_the_gradient_of_finite_differences():
    matrix = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gram_schmidt, matrix)


def test_translation_is_added_after_the_scale():
    camera = Camera(torch.eye(3), torch.tensor([0.5, -0.25]), torch.tensor(2.0))
    seen = project(camera, torch.tensor([[0.1, 0.2, 0.3]]))
    torch.testing.assert_close(seen, torch.tensor([[0.7, 0.15, 0.6]]))


def test_the_rest_pose_faces_the_camera_upright_with_its_left_on_the_right():
    camera = Camera(torch.tensor(FACING_CAMERA), torch.zeros(2), torch.tensor(1.0))
    left_up_front = project(camera, torch.eye(3))
    assert left_up_front[0, 0] > 0  # the person's left is on the picture's right
    assert left_up_front[1, 1] < 0  # up is towards smaller y
    assert left_up_front[2, 2] < 0  # the front is nearer


def test_crop_takes_its_corners_to_plus_and_minus_one_and_back():
    crop = Crop(torch.tensor([[30.0, 40.0]]), torch.tensor([10.0]))
    corners = torch.tensor([[[20.0, 30.0], [40.0, 50.0]]])
    units = crop.to_image_units(corners)
    torch.testing.assert_close(units, torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]]))
    torch.testing.assert_close(crop.to_pixels(units), corners)


@pytest.mark.parametrize("shape", [(0,), (1,), (2, 3)])
def test_projection_takes_any_batch(shape):
    camera = Camera(torch.eye(3).expand(*shape, 3, 3), torch.zeros(*shape, 2), torch.ones(shape))
    assert project(camera, torch.zeros(*shape, 4, 3)).shape == (*shape, 4, 3)
