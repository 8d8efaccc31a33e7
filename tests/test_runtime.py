"""Devices, precision, and workers that end with the process that started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from deformlearn.runtime import autocast, device, exact_float32

PARENT = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from deformlearn.runtime import start_worker

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), start_worker) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in /proc")
def test_a_worker_does_not_outlive_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 20
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(worker)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_of_several_processes_on_a_machine_each_has_its_own_gpu(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device(name) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device(name) == torch.device("cuda", 3)
    assert device("cuda:1") == torch.device("cuda", 1)
    assert device("cpu") == torch.device("cpu")


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    with autocast(torch.device("cuda", 0)):
        assert not torch.is_autocast_enabled("cuda")


def test_float32_stays_exact_until_the_last_of_several_threads_is_done():
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    first_is_in, second_is_done = threading.Event(), threading.Event()

    def first() -> str:
        with exact_float32:
            first_is_in.set()
            assert second_is_done.wait(10)
            return switch.fp32_precision

    try:
        switch.fp32_precision = "bf16"
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(first)
            assert first_is_in.wait(10)
            with exact_float32:
                pass
            second_is_done.set()
            assert waiting.result() == "ieee"
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = before
