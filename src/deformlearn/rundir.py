"""A run on disk: its configuration, what has been measured, checkpoints; stop and go on anywhere.

A stage is done when its record is in metrics.jsonl, which is written after the stage's own files. So a
run that was killed repeats at most the stage it was in, from that stage's last checkpoint.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from deformlearn import runtime
from deformlearn.config import RunConfig
from deformlearn.errors import InputError
from deformlearn.files import write_atomically

_WHERE_IT_RUNS = ("device", "workers", "baselines")
"""Settings that may differ when a run is gone on with."""


class RunFolder:
    """One run. Use it as a context: it holds the folder's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another process is working in {self.path}; wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise InputError(f"cannot write in {self.path}: {error.strerror or error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def begin(self, config: RunConfig, data: dict[str, Any]) -> None:
        """Record what this run is, or check that it is the one that was begun here."""
        wanted = json.loads(json.dumps({"config": asdict(config), "data": data}))
        path = self.path / "config.json"
        if not path.exists():
            write_atomically(path, json.dumps(wanted, indent=2).encode())
            versions = json.dumps(runtime.versions(), indent=2)
            write_atomically(self.path / "versions.json", versions.encode())
            return
        found = _read_json(path)
        changes = _differences(found, wanted)
        if changes:
            raise InputError(
                f"{self.path} holds a run of another configuration ({'; '.join(changes[:4])}); "
                f"give the same options to go on with it, or another --out"
            )

    def records(self) -> list[dict[str, Any]]:
        """Everything measured so far, in order."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text().splitlines() if line]
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); delete its broken line") from error

    def record(self, stage: str, round_: int = 0) -> dict[str, Any] | None:
        """The record of a finished stage, or None."""
        for record in self.records():
            if record["stage"] == stage and record["round"] == round_:
                return record
        return None

    def finish(self, stage: str, round_: int = 0, **measured: Any) -> dict[str, Any]:
        """Mark a stage as done, with what it measured, and drop its checkpoint."""
        record = {"stage": stage, "round": round_, **measured}
        lines = [json.dumps(entry) for entry in [*self.records(), record]]
        write_atomically(self.path / "metrics.jsonl", ("\n".join(lines) + "\n").encode())
        self._checkpoint(stage, round_).unlink(missing_ok=True)
        return record

    def round_path(self, round_: int, name: str) -> Path:
        """A file of a round."""
        return self.path / f"round-{round_}" / name

    def save_checkpoint(self, stage: str, round_: int, state: dict) -> None:
        """Keep the state of an unfinished stage."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self._checkpoint(stage, round_), buffer.getvalue())

    def load_checkpoint(self, stage: str, round_: int = 0) -> dict | None:
        """The last kept state of an unfinished stage, or None."""
        path = self._checkpoint(stage, round_)
        if not path.exists():
            return None
        return torch.load(path, weights_only=True, map_location="cpu")

    def _checkpoint(self, stage: str, round_: int) -> Path:
        return self.path / "checkpoints" / f"{stage}-{round_}.pt"


def read_config(path: Path) -> dict[str, Any]:
    """The configuration and data description of a run folder."""
    if not (path / "config.json").is_file():
        raise InputError(f"{path} is not a run folder: it has no config.json; make one with `run`")
    return _read_json(path / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two nested dictionaries disagree, as `a.b: 1 became 2`."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        parts = [
            _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
            for key in keys
            if key not in _WHERE_IT_RUNS
        ]
        return [change for part in parts for change in part]
    return [] if found == wanted else [f"{name}: {found} became {wanted}"]
