import logging
import threading
import time

import pytest
import torch

from deformlearn.errors import InputError
from deformlearn.prefetch import ahead, made_ahead, sent

CPU = torch.device("cpu")


@pytest.fixture(params=["cpu", "cuda:1", "cuda"])
def where(request, monkeypatch):
    """Both ways of going through a list; the thread needs no GPU to be one."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(device))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    chosen: list[int] = []
    yield torch.device(request.param)
    assert set(chosen) == (set() if request.param == "cpu" else {1})


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

    several = ahead(items(), torch.device("cuda:0"))
    assert next(several) != threading.get_ident()
    assert made[1].wait(10)
    assert not made[2].is_set()
    several.close()


class Room:
    """A device that holds so many batches: each made and not yet used is one."""

    def __init__(self, room):
        self.room, self.used, self.made = room, 0, []

    def make(self, item):
        if len(self.made) - self.used >= self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        self.made.append(item)
        return 10 * item

    def use(self, items, where):
        for found in made_ahead(self.make, items, where):
            yield found
            self.used += 1


def test_what_is_made_ahead_comes_in_its_order(where):
    assert list(made_ahead(lambda item: 10 * item, range(20), where)) == list(range(0, 200, 10))


def test_without_room_for_the_next_batch_each_is_made_when_the_last_is_used(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    device = Room(1)
    found = []
    with caplog.at_level(logging.WARNING):
        for item in device.use(range(6), torch.device("cuda:0")):
            # The thread has tried to make the next one meanwhile.
            found.append(item)
            time.sleep(0.05)
    assert found == list(range(0, 60, 10))
    assert device.made == list(range(6))
    assert len(caplog.records) == 1
    assert "no batch is made before the last is used (CUDA out of memory.)" in caplog.text


def test_a_batch_that_does_not_fit_alone_is_refused(where):
    with pytest.raises(InputError, match="out of memory for one of the batches"):
        list(Room(0).use(range(3), where))


def test_tensors_stay_what_they_are_on_their_way():
    tensor = torch.arange(3)
    assert sent(tensor, CPU) is tensor
