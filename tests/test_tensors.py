"""tensors.py: numbers that never change. (Values of tensors are tested wherever they are used.)"""

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from deformlearn.tensors import fixed, not_finite

CPU = torch.device("cpu")


def test_numbers_are_made_once_for_a_device_and_a_type():
    one = fixed((3, 1, 2), CPU)
    assert one.tolist() == [3, 1, 2]
    assert fixed((3, 1, 2), CPU) is one
    assert fixed((3, 1, 2), CPU, torch.float32).dtype == torch.float32


def test_numbers_that_are_first_asked_for_in_a_trace_or_without_gradients_are_like_any():
    with FakeTensorMode(), torch.inference_mode():
        fixed((7.0, 8.0), CPU, torch.float32)
    found = fixed((7.0, 8.0), CPU, torch.float32)
    assert not isinstance(found, FakeTensor)
    assert not found.is_inference()
    assert found.tolist() == [7.0, 8.0]
    wanted = torch.ones(2, requires_grad=True)
    (wanted * found).sum().backward()
    assert wanted.grad.tolist() == [7.0, 8.0]


def test_the_first_tensor_with_a_number_that_is_none_is_named():
    sound = {"a": torch.ones(2), "count": torch.tensor(3)}
    assert not_finite(sound) is None
    assert not_finite({**sound, "b": torch.tensor([1.0, torch.nan]), "c": torch.ones(0)}) == "b"
