"""Work for other processes, which are killed while they work, receive and send."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from multiprocessing.context import SpawnProcess

import numpy as np
import pytest

from deformlearn import crew as crews
from deformlearn.crew import crew, in_order
from deformlearn.errors import InputError, NotFiniteError

LARGE = 20_000_000


def process_id(*_) -> int:
    return os.getpid()


def zeros(count: int) -> np.ndarray:
    return np.zeros(count, np.uint8)


def die_while_sending(count: int) -> np.ndarray:
    """So large that nobody can have taken it all a hundredth of a second after it is begun to be sent."""
    found = zeros(count)
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return found


@pytest.fixture(scope="module")
def two():
    """Two other processes."""
    with crew(2) as submit:
        yield submit


def iter_of(count: int):
    """Cannot be sent."""
    return (number for number in range(count))


def be_stubborn() -> None:
    class StubbornError(Exception):
        """Nobody else can find it."""

    raise StubbornError("no way")


def not_finite(rows: list[int]) -> None:
    raise NotFiniteError("rows", rows)


def test_one_worker_is_this_process_and_more_are_others(two):
    with crew(1) as submit:
        assert submit(process_id).result() == os.getpid()
    assert two(process_id).result() != os.getpid()


def test_work_comes_back_in_the_order_in_which_it_was_given(two):
    with crew(1) as one:
        for submit in (one, two):
            begun = (submit(len, b"x" * number).result for number in range(20))
            assert list(in_order(begun, 4)) == list(range(20))


def test_no_more_is_begun_than_was_allowed():
    begun = []

    def job(number):
        begun.append(number)
        return lambda: number

    results = in_order(map(job, range(10)), 3)
    assert next(results) == 0
    assert begun == [0, 1, 2, 3]


def test_large_arrays_go_and_come_whole(two):
    array = np.arange(LARGE // 8)
    assert two(np.sum, array).result() == array.sum()
    assert len(two(zeros, LARGE).result()) == LARGE


def test_what_the_work_raises_comes_back_with_where_it_was(two):
    with pytest.raises(ZeroDivisionError) as caught:
        two(divmod, 1, 0).result()
    assert "in _answer" in caught.value.__notes__[0]
    assert two(len, b"next").result() == 4


def test_what_cannot_travel_says_so_and_the_worker_goes_on(two):
    with pytest.raises(RuntimeError, match="generator"):
        two(iter_of, 3).result()
    with pytest.raises(RuntimeError, match=r"in be_stubborn[\s\S]*StubbornError: no way"):
        two(be_stubborn).result()
    with pytest.raises(NotFiniteError, match="rows") as caught:
        two(not_finite, [1, 2]).result()
    assert caught.value.rows == [1, 2]
    assert two(len, b"next").result() == 4


def test_a_worker_that_cannot_be_started_is_an_error(monkeypatch):
    class Poor:
        def Pipe(self):  # noqa: N802
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(crews, "get_context", lambda _: Poor())
    with (
        crew(2) as submit,
        pytest.raises(InputError, match=r"cannot be started .*Too many open files\); give fewer"),
    ):
        submit(len, b"").result()


@pytest.mark.parametrize(
    ("work", "reason"),
    [(die_while_sending, "was killed, as one is for its memory"), (os._exit, "exit code 5")],
)
def test_a_worker_that_ends_is_an_error_and_nobody_waits_for_it(work, reason):
    with crew(2) as submit:
        ended = submit(work, LARGE if work is die_while_sending else 5)
        assert ended in wait([ended], timeout=30).done
        with pytest.raises(InputError, match=reason):
            ended.result()


def test_a_worker_that_is_killed_before_it_is_there_is_an_error(monkeypatch):
    start = SpawnProcess.start

    def start_and_kill(process):
        start(process)
        process.kill()

    monkeypatch.setattr(SpawnProcess, "start", start_and_kill)
    with crew(2) as submit:
        killed = submit(len, b"")
        assert killed in wait([killed], timeout=30).done
        with pytest.raises(InputError, match="was killed"):
            killed.result()


def test_the_workers_end_with_the_crew():
    with crew(2) as submit:
        number = submit(process_id).result()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a worker is still there")


INTERRUPTED = """
import time
from multiprocessing import active_children
from deformlearn.crew import crew

if __name__ == "__main__":
    try:
        with crew(2) as submit:
            submit(len, b""), submit(len, b"")
            while len(active_children()) < 2:
                time.sleep(0.001)
            print("hired", flush=True)
            time.sleep(60)
    except KeyboardInterrupt:
        print("stopped")
"""


def test_workers_that_are_interrupted_while_they_import_say_nothing(tmp_path):
    script = tmp_path / "hire.py"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout.readline() == "hired\n"
    time.sleep(0.7)  # they have begun, and importing torch takes longer
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    said, complaints = process.communicate(timeout=60)
    assert (said, complaints, process.returncode) == ("stopped\n", "", 0)


def test_no_python_file_of_the_current_folder_is_run(tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("open('run', 'w')")
    monkeypatch.chdir(tmp_path)
    with crew(2) as submit:
        assert submit(process_id).result() != os.getpid()
    assert not (tmp_path / "run").exists()
    assert "PYTHONSAFEPATH" not in os.environ
