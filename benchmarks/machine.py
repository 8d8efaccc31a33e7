"""The machine a benchmark runs on: what it is, how to time on it, and what it can do at most."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from deformlearn import runtime
from table import Measured

T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """What every workload is told."""

    device: torch.device
    size: str = "full"
    """full, quick (a few minutes in all) or miniature (does it run at all)."""
    folder: Path = Path("runs/bench")
    """Where data sets are kept between runs."""

    def of(self, full: T, quick: T, miniature: T) -> T:
        """The value for this size."""
        return {"full": full, "quick": quick, "miniature": miniature}[self.size]

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """As it stands in metrics: a GPU's numbers are other numbers."""
        return "GPU" if self.gpu else "CPU"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def seconds(
        self, jobs: Mapping[str, Callable[[], object]], *, repeats: int
    ) -> dict[str, list[float]]:
        """Seconds of each job, `repeats` times in turn: what slows the machine slows all of them.

        Each job is done once before, unmeasured.
        """
        found: dict[str, list[float]] = {name: [] for name in jobs}
        for again in range(repeats + 1):
            for name, job in jobs.items():
                self.wait()
                begin = time.perf_counter()
                job()
                self.wait()
                if again:
                    found[name].append(time.perf_counter() - begin)
        return found


def median(turns: list[float]) -> float:
    """The middle turn: neither the one that was disturbed nor the lucky one."""
    return statistics.median(turns)


def times_faster(ours: list[float], peer: list[float]) -> float:
    """The middle of the turns' own ratios: a machine that is busier for a while slows both of a turn."""
    return statistics.median(theirs / mine for mine, theirs in zip(ours, peer, strict=True))


def limits(bench: Bench) -> list[Measured]:
    """What the roofline is drawn from: the fastest matrix product and the fastest copy of this machine."""
    side = bench.of(8192 if bench.gpu else 2048, 8192 if bench.gpu else 1024, 64)
    found = []
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        seconds = bench.seconds({"product": lambda a=a, b=b: a @ b}, repeats=bench.of(7, 5, 1))
        rate = 2 * side**3 / min(seconds["product"]) / 1e9
        found.append(Measured(f"machine: matrix product, {name}", rate, "GFLOP/s", tolerance=0.2))
    numbers = bench.of(2**28 if bench.gpu else 2**26, 2**26, 2**12)
    source = torch.ones(numbers, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.seconds({"copy": lambda: target.copy_(source)}, repeats=bench.of(7, 5, 1))
    rate = 2 * source.nbytes / min(seconds["copy"]) / 1e9
    found.append(Measured("machine: copy, read + written", rate, "GB/s", tolerance=0.4))
    return found


def kind(bench: Bench) -> str:
    """Machines whose numbers may be compared: processor or GPU, threads, size of the benchmark."""
    if bench.gpu:
        return f"{torch.cuda.get_device_name(bench.device)}, {bench.size}"
    return f"{processor()}, {torch.get_num_threads()} threads, {bench.size}"


def describe(bench: Bench) -> dict[str, Any]:
    """Everything that a reader who doubts a number may ask about the machine."""
    return {
        "kind": kind(bench),
        "device": str(bench.device),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "commit": commit(),
        "versions": runtime.versions(),
    }


def commit() -> str:
    """The commit that was measured; a plus where files were changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if dirty else "")


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def peak_megabytes() -> float:
    """The most memory this process has held.

    Linux's VmHWM: `ru_maxrss` of a child also counts what its parent held when it was started.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
