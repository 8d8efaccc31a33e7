"""Every goal of the project as a measured number, beside what was accepted before and beside a peer.

    python benchmarks/run.py                       every group but accuracy and million (about 15 minutes)
    python benchmarks/run.py --only registration   one group
    python benchmarks/run.py --quick               the same with less work (a few minutes)
    python benchmarks/run.py --accept              ... and what was found becomes the baseline
    python benchmarks/run.py --roofline            the table of docs/performance.md, from the last results
    python benchmarks/run.py --demo runs/demo      the goals of a finished demo with --run.baselines

Peers are run in the same process, in turn with ours. A number is compared with the baseline of the same
kind of machine, size and number of threads; a machine without one has nothing to be worse than. The exit
code is 1 where a number is worse than its baseline by more than its tolerance. What was measured is written
number by number: whoever is stopped, however abruptly, keeps it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import accuracy
import learning_speed
import machine
import people_speed
import registration_speed
import roofline
import storage_speed
from deformlearn import runtime
from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from gather import gather
from machine import Bench
from table import HEADINGS, Baseline, Measured, cells, peers, record, regressions, text_table

GROUPS: dict[str, Callable[[Bench], Iterable[Measured]]] = {
    "machine": machine.limits,
    "start": storage_speed.start,
    "registration": registration_speed.registration,
    "compiled": registration_speed.compiled_registration,
    "scaling": registration_speed.scaling,
    "lifter": learning_speed.lifter,
    "training": learning_speed.training,
    "head": learning_speed.head_only,
    "prediction": learning_speed.prediction,
    "evaluation": people_speed.evaluation,
    "synthetic": people_speed.synthetic,
    "skinning": people_speed.skinning,
    "storage": storage_speed.storage,
    "pictures": storage_speed.pictures,
    "accuracy": accuracy.accuracy,
    "million": registration_speed.million,
}
"""Workloads by name, in the order they run."""

SLOW = ("accuracy", "million")
"""Groups that take long: only by name."""

UNFINISHED = "stopped before its end"
"""What a file says of the group that is being measured."""


def main() -> None:
    options = _options()
    if options.roofline:
        print(roofline.tables(options.out))
        return
    size = "quick" if options.quick else "miniature" if options.miniature else "full"
    bench = Bench(runtime.device(options.device), size, options.data / size)
    found: list[Measured] = []
    failed: dict[str, str] = {}
    try:  # first: what is refused must not cost what took hours to measure
        if options.densepose is not None:
            found += accuracy.charts(options.densepose)
        if options.demo is not None:
            found += accuracy.demo(options.demo)
    except InputError as error:
        sys.exit(f"error: {error}")
    path = _path(bench, options)
    for name in _wanted(options):
        print(f"{name} ...", file=sys.stderr, flush=True)
        failed[name] = UNFINISHED
        if found:  # else a call before this one may have left more
            _keep(path, found, failed, bench, options)
        try:
            for one in _sound(GROUPS[name](bench), found):
                found.append(one)
                _keep(path, found, failed, bench, options)
            del failed[name]
        except Exception as error:  # one broken workload must not cost the others' numbers
            failed[name] = f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:
            sys.exit(f"stopped in {name}; what was measured until then, if anything: {path}")
    sys.exit(_report(path, found, failed, bench, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=GROUPS, action="append", help="may be given twice")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--miniature", action="store_true", help="only: does it run?")
    parser.add_argument("--accept", action="store_true", help="make this the baseline")
    parser.add_argument("--roofline", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--demo", type=Path, help="finished demo folder")
    parser.add_argument(
        "--densepose", type=Path, help="folder with UV_Processed.mat and demo_im_IUV.png"
    )
    parser.add_argument("--data", type=Path, default=Path("runs/bench"), help="kept data sets")
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here / "results")
    parser.add_argument(
        "--gather", type=Path, help="folder that gets all results of --out as one file, too"
    )
    parser.add_argument("--baseline", type=Path, default=here / "baseline.json")
    return parser.parse_args()


def _sound(measured: Iterable[Measured], before: list[Measured]) -> Iterator[Measured]:
    """What a group measures, as it comes: numbers, each of a name of its own."""
    names = {one.metric for one in before}
    known = len(names)
    for one in measured:
        if not math.isfinite(one.value):
            raise ValueError(f"{one.metric} is {one.value}")
        if one.metric in names:
            raise ValueError(f"{one.metric} is measured twice")
        names.add(one.metric)
        yield one
    if len(names) == known:
        raise ValueError("nothing was measured")


def _wanted(options: argparse.Namespace) -> list[str]:
    """The groups to run: those named; else all but the slow ones, or none to look at a folder."""
    if options.only:
        return [name for name in GROUPS if name in options.only]
    if options.demo is not None or options.densepose is not None:
        return []
    return [name for name in GROUPS if name not in SLOW]


def _path(bench: Bench, options: argparse.Namespace) -> Path:
    """Where the results of this run go."""
    which = "-".join(options.only or [options.demo.name if options.demo else "all"])
    where = "gpu" if bench.gpu else "cpu"
    return options.out / f"{time.strftime('%Y-%m-%d')}-{where}-{bench.size}-{which}.json"


def _keep(
    path: Path,
    found: list[Measured],
    failed: dict[str, str],
    bench: Bench,
    options: argparse.Namespace,
) -> None:
    """Write what was found until now, with the machine that made it."""
    about = {**machine.describe(bench), "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
    about["demo"] = options.demo and options.demo.name
    kept = {**about, "measured": record(found), "failed": failed}
    write_atomically(path, (json.dumps(kept, indent=2) + "\n").encode())
    if options.gather is not None:
        gather(options.out, options.gather)


def _report(
    path: Path,
    found: list[Measured],
    failed: dict[str, str],
    bench: Bench,
    options: argparse.Namespace,
) -> int:
    """Print the table and keep it; the exit code."""
    baseline = Baseline(options.baseline)
    kind = machine.kind(bench)
    accepted = baseline.of(kind)
    print(f"{kind}; commit {machine.commit()}; load {machine.describe(bench)['load'][0]}\n")
    print(text_table(HEADINGS, [cells(one, accepted) for one in found]))
    print("\n".join(["", *peers(found)]))
    worse = regressions(found, accepted)
    for line in worse:
        print(f"WORSE  {line}")
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}")
    _keep(path, found, failed, bench, options)
    print(f"written: {path}")
    if options.accept and not failed:
        baseline.accept(kind, found)
        print(f"accepted as the baseline of {kind}: {options.baseline}")
        return 0
    return 1 if worse or failed else 0


if __name__ == "__main__":
    main()
