"""A device that is full: half as many at a time, the same result, and a line that says so."""

import logging

import pytest
import torch

from deformlearn.errors import InputError
from deformlearn.memory import Portion

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")


def cramped(room, seen):
    """Doubles numbers, at most `room` at once."""

    def work(items):
        seen.append(len(items))
        if len(items) > room:
            raise FULL
        return items * 2

    return work


def test_work_that_does_not_fit_begins_again_with_half_as_many(caplog):
    portion, seen = Portion(12, "people"), []

    def work(size):
        seen.append(size)
        if size > 3:
            raise FULL
        return "done"

    with caplog.at_level(logging.WARNING):
        assert portion.fitting(work) == "done"
        assert portion.fitting(work) == "done"
    assert seen == [12, 6, 3, 3]
    assert portion.size == 3
    first, second = (record.getMessage() for record in caplog.records)
    reason = "(CUDA out of memory. Tried to allocate 1 GiB)"
    assert first == f"out of memory: from now on 6 people at a time {reason}"
    assert second == f"out of memory: from now on 3 people at a time {reason}"


@pytest.mark.parametrize("items", [torch.arange(11), torch.arange(0)])
def test_the_parts_are_all_items_in_their_order_once(items):
    seen: list[int] = []
    found = list(Portion(8, "people").over(items, cramped(3, seen)))
    assert torch.equal(torch.cat([*found, items[:0]]), items * 2)
    assert seen == ([8, 4, 2, 2, 2, 2, 2, 1] if len(items) else [])


def test_of_a_few_that_do_not_fit_half_are_tried_whatever_the_portion_was():
    portion, seen = Portion(100, "people"), []
    list(portion.over(torch.arange(4), cramped(2, seen)))
    assert seen == [4, 2, 2]


def test_one_that_does_not_fit_alone_is_refused():
    with pytest.raises(InputError, match=r"for one of the images .*1 GiB\); free the device"):
        list(Portion(2, "images").over(torch.arange(5), cramped(0, [])))


def test_an_error_of_another_kind_is_nobody_s_reason_to_halve():
    def work(size):
        raise OSError("the disk has gone")

    portion = Portion(4, "people")
    with pytest.raises(OSError, match="the disk"):
        portion.fitting(work)
    assert portion.size == 4
