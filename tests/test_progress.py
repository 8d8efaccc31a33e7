"""progress.py: what is said of the time that is left is true."""

import io
from functools import partial

import pytest
from rich.console import Console

from deformlearn import progress
from deformlearn.progress import Watch


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the beginning, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines(clock, told, total):
    """What a log says of a stage that tells (seconds, done)."""
    file, clock[0] = io.StringIO(), 0.0
    with Watch(console=Console(file=file, width=200)).stage("learn", total) as advance:
        for seconds, done in told:
            clock[0] = float(seconds)
            advance(done)
    return file.getvalue().splitlines()[:-1]


def test_what_an_earlier_command_did_makes_nothing_faster(clock):
    assert lines(clock, [(0, 8), (3600, 9)], 10) == ["learn: 9 of 10, about 3600 s left"]


def test_a_log_hears_now_and_then_how_long_it_takes(clock):
    told = [(0, 0), (10, 1), (40, 4), (50, 5), (80, 8)]
    assert lines(clock, told, 10) == [
        "learn: 4 of 10, about 60 s left", "learn: 8 of 10, about 20 s left",
    ]  # fmt: skip


def test_nothing_is_guessed_from_one_word_or_without_an_end(clock):
    assert lines(clock, [(60, 3)], 10) == ["learn: 3 of 10"]
    assert lines(clock, [(0, 1), (60, 3)], None) == ["learn: 3"]


@pytest.mark.parametrize("epoch", [5, 40, 4000])
def test_a_bar_knows_the_time_that_is_left_however_long_a_step_takes(clock, monkeypatch, epoch):
    bars = []

    class Bar(progress.Progress):
        def start(self):
            bars.append(self)

    monkeypatch.setattr(progress, "Progress", partial(Bar, get_time=lambda: clock[0]))
    watch = Watch(console=Console(file=io.StringIO(), force_terminal=True))
    with watch.stage("learn", 10) as advance:
        for done in range(4):
            clock[0] = float(epoch * done)
            advance(done)
        assert bars[0].tasks[0].time_remaining == 7 * epoch
