"""Kill the tiny demo again and again; the same command must end with the results of an undisturbed one.

    python tests/kill_anywhere.py --kills 30 --seed 0 --out runs/killed

An undisturbed run says how long the work takes and what comes of it. Then the same command is started
in a fresh folder, killed (SIGKILL, with all its workers) at a moment drawn from that time, and given
again, until it ends before its moment; then the next fresh folder, until there were `--kills` kills.
Whatever ends must equal the undisturbed run: every Parquet file and every weight to the bit, and
metrics.jsonl in everything but seconds. Nothing may be left behind. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Command = Callable[[Path], list[str]]
"""The command line that makes, or goes on with, a folder."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/killed"), help="emptied first")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    differences = kill_anywhere(tiny_demo, options.out, options.kills, options.seed)
    print("\n".join(differences) or f"{options.kills} kills: results equal to the bit")
    sys.exit(1 if differences else 0)


def tiny_demo(out: Path) -> list[str]:
    """People, two rounds and the report: every stage of the tiny preset, with less to do in each."""
    return [
        sys.executable, "-m", "deformlearn", "demo", "--preset", "tiny", "--out", str(out),
        "--data.train", "48", "--data.val", "0", "--data.test", "12", "--data.size", "64",
        "--run.device", "cpu", "--run.baselines",
    ]  # fmt: skip


def kill_anywhere(command: Command, out: Path, kills: int, seed: int) -> list[str]:
    """Run undisturbed, then with kills; says how the results differ (nothing: they do not)."""
    out.mkdir(parents=True, exist_ok=True)
    seconds = _undisturbed(command, out / "undisturbed")
    print(f"undisturbed: {seconds:.1f} s", flush=True)
    moments = random.Random(seed)
    differences: list[str] = []
    done = attempt = 0
    while done < kills:
        attempt += 1
        folder = out / f"disturbed-{attempt}"
        begin, before, ended = time.monotonic(), done, False
        while not ended:
            moment = moments.uniform(0, seconds) if done < kills else None
            ended = run_until(command(folder), moment, out / "log.txt")
            if not ended:
                done += 1
                print(f"kill {done} at {moment:5.1f} s: {stage(folder)}", flush=True)
        if done == before:
            # It ended before its moment: the first start, with cold caches, had been slower.
            seconds = min(seconds, time.monotonic() - begin)
        found = compare(out / "undisturbed", folder)
        print(f"folder {attempt}: {'DIFFERS' if found else 'equal'}", flush=True)
        differences += [f"{folder.name}: {one}" for one in found]
        if not found:
            shutil.rmtree(folder)
    return differences


def _undisturbed(command: Command, folder: Path) -> float:
    """Seconds that the whole work takes."""
    begin = time.monotonic()
    run_until(command(folder), None, folder.with_suffix(".log"))
    return time.monotonic() - begin


def run_until(command: Sequence[str], moment: float | None, log: Path) -> bool:
    """Start a command and kill it, with its workers, after `moment` seconds; whether it ended before.

    A command that fails by itself ends everything, with what it said.
    """
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code != 0:
        text = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"the command failed with exit code {code}: {' '.join(command)}\n{text}")
    return True


def stage(folder: Path) -> str:
    """How far a folder has come, read off its files."""
    shards = len(list(folder.rglob("observations/*.parquet")))
    records = [
        json.loads(line)
        for path in folder.rglob("metrics.jsonl")
        for line in path.read_text().splitlines()
    ]
    kept = sorted(path.stem for path in folder.rglob("checkpoints/*.pt"))
    if not records:
        text = f"{shards} shards" if shards else "nothing yet"
    else:
        text = f"after {records[-1]['stage']} {records[-1]['round'] or ''}".strip()
    return f"{text}{', checkpoint ' + ' '.join(kept) if kept else ''}"


def compare(wanted: Path, found: Path) -> list[str]:
    """How the results in two folders differ."""
    differences = []
    first, second = _files(wanted), _files(found)
    for name in sorted(first.keys() | second.keys()):
        if name not in second:
            differences.append(f"{name} is missing")
        elif name not in first:
            differences.append(f"{name} is left behind")
        elif first[name] != second[name]:
            differences.append(f"{name} differs")
    return differences


def _files(folder: Path) -> dict[str, Any]:
    """Every file by name; of those that must be equal, what is in them."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def _content(path: Path) -> Any:
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    content = path.read_bytes()
    if path.suffix == ".parquet":
        return hashlib.sha256(content).hexdigest()
    if path.suffix == ".safetensors":
        # The library writes a file's metadata in any order: compare what the header says.
        start = 8 + int.from_bytes(content[:8], "little")
        return json.loads(content[8:start]), hashlib.sha256(content[start:]).hexdigest()
    return None


def _timeless(value: Any) -> Any:
    """A record without what the clock said."""
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k != "seconds"}
    return value


if __name__ == "__main__":
    main()
