import threading

import pytest
import torch

from deformlearn.prefetch import ahead, sent

CPU = torch.device("cpu")


@pytest.fixture(params=["cpu", "cuda:1"])
def where(request, monkeypatch):
    """Both ways of going through a list; the thread needs no GPU to be one."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device))
    chosen = []
    yield torch.device(request.param)
    assert set(chosen) == set([torch.device("cuda:1")] if request.param != "cpu" else ())


def test_all_items_come_in_their_order(where):
    assert list(ahead(iter(range(20)), where)) == list(range(20))


def test_an_error_comes_where_its_item_was_to_come(where):
    def items():
        yield 1
        yield 2
        raise OSError("the disk has gone")

    found = []
    with pytest.raises(OSError, match="the disk has gone"):
        found.extend(ahead(items(), where))
    several = ahead(items(), where)
    assert [next(several), next(several)] == [1, 2]
    with pytest.raises(OSError, match="the disk has gone"):
        next(several)


def test_for_a_gpu_one_item_is_made_while_another_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    made = [threading.Event() for _ in range(3)]

    def items():
        for event in made:
            event.set()
            yield threading.get_ident()

    several = ahead(items(), torch.device("cuda"))
    assert next(several) != threading.get_ident()
    assert made[1].wait(10)
    assert not made[2].is_set()
    several.close()


def test_tensors_stay_what_they_are_on_their_way():
    tensor = torch.arange(3)
    assert sent(tensor, CPU) is tensor
