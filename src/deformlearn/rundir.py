"""A run on disk: its configuration, what has been measured, checkpoints; stop and go on anywhere.

A stage is done when its record is in metrics.jsonl, which is written after the stage's own files. So a
run that was killed repeats at most the stage it was in, from that stage's last checkpoint.

Several processes may share a run (distributed.Team): rank 0 alone holds the lock and writes.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from deformlearn import runtime
from deformlearn.agreement import agree, differences, said
from deformlearn.config import RunConfig
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError
from deformlearn.files import clear_parts, naming, write_atomically
from deformlearn.locks import held, let_go
from deformlearn.progress import QUIET, Watch

_WHERE_IT_RUNS = ("device", "workers", "baselines", "compile")
"""Settings that may differ when a run is gone on with."""
ONE_PROCESS = ("device", "workers", "path")
"""What may differ between the processes of one run: each machine may have its own copy of the data."""
_DIGEST = 16
"""Bytes at the end of a checkpoint that tell whether it is whole."""


class RunFolder:
    """One run. Use it as a context: it holds the folder's lock. A new run that is refused leaves none.

    With a team, every process must make the same calls in the same order: what rank 0 finds on disk
    is what all go by.
    """

    def __init__(self, path: Path, *, team: Team = ALONE, watch: Watch = QUIET) -> None:
        self.path = path
        self.team = team
        self._watch = watch
        self._lock: FileLock | None = None

    @cached_property
    def _finished(self) -> list[dict[str, Any]]:
        """As it was when the folder was entered or, if it is only looked at, first asked for."""
        return self.records()

    def __enter__(self) -> RunFolder:
        finished: list[dict[str, Any]] = []
        with self.team.refuse_together():
            if self.team.leads:
                self._lock = held(self.path, team=self.team)
                clear_parts(self.path)
                finished = self.records()
                for record in finished:  # of a run killed when a stage was done
                    self._drop_checkpoints(record["stage"], record["round"])
        self._finished = self.team.tell(finished)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            let_go(self._lock)

    def begin(
        self, config: RunConfig, data: dict[str, Any], shards: dict[str, dict] | None = None
    ) -> None:
        """Record what this run is, or check that it is the one that was begun here.

        A run that has not kept anything yet may become another one. `shards` tells by name which version
        of each the data set has.
        """
        wanted = json.loads(json.dumps({"config": asdict(config), "data": data}))
        agree(self.team, {**wanted, "shards": shards}, ignored=ONE_PROCESS)
        with self.team.refuse_together():
            if self.team.leads:
                self._claim(wanted, shards or {})
                self.check_shards(shards or {})

    def check_shards(self, shards: dict[str, dict]) -> None:
        """Refuse shards that are not those the run began with; at first, note which they are.

        For rank 0 alone.
        """
        path = self.path / "shards.json"
        if not path.exists():
            write_atomically(path, json.dumps(shards, indent=2).encode())
        before = _read_json(path)
        for name in sorted(before.keys() | shards.keys()):
            if before.get(name) != shards.get(name):
                raise InputError(
                    f"the data set's {name} {_change(before.get(name), shards.get(name))} since the "
                    f"run in {self.path} began; put the data back as they were, and the same command "
                    f"goes on, or begin anew with another --out"
                )

    def _is_blank(self) -> bool:
        """Whether no stage has kept anything, so that other options or data contradict nothing."""
        kept = ("lifter.safetensors", "checkpoints/*", "round-*")
        return not self.records() and not any(any(self.path.glob(name)) for name in kept)

    def _claim(self, wanted: dict[str, Any], shards: dict[str, dict]) -> None:
        path = self.path / "config.json"
        before = read_config(self.path) if path.exists() else None
        blank = self._is_blank()
        if before is None or blank:
            notes = {"versions.json": runtime.versions(), "config.json": wanted}
            notes |= {"shards.json": shards} if blank else {}
            for name, content in notes.items():
                write_atomically(self.path / name, json.dumps(content, indent=2).encode())
        elif changes := differences(before, wanted, ignored=_WHERE_IT_RUNS):
            raise InputError(
                f"{self.path} holds a run of another configuration ({said(changes)}); "
                f"give the same options to go on with it, or another --out"
            )

    def records(self) -> list[dict[str, Any]]:
        """Everything measured so far, in order."""
        path = self.path / "metrics.jsonl"
        with naming(path, "read"):
            if not path.exists():
                return []
            lines = path.read_text("utf-8", errors="replace").splitlines()
        found = []
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                record = json.loads(line)
                known = isinstance(record["stage"], str) and isinstance(record["round"], int)
            except (ValueError, TypeError, LookupError):
                known = False
            if not known:
                raise InputError(
                    f"{path} is damaged: line {number} is no record of a stage; delete that line"
                )
            found.append(record)
        return found

    def record(self, stage: str, round_: int = 0) -> dict[str, Any] | None:
        """The record of a finished stage, or None."""
        for record in self._finished:
            if record["stage"] == stage and record["round"] == round_:
                return record
        return None

    def finish(self, stage: str, round_: int = 0, **measured: Any) -> dict[str, Any]:
        """Mark a stage as done, with what rank 0 measured, and drop its checkpoint."""
        record = self.team.tell({"stage": stage, "round": round_, **measured})
        with self.team.refuse_together():
            if self.team.leads:
                lines = [json.dumps(entry) for entry in [*self._finished, record]]
                write_atomically(self.path / "metrics.jsonl", ("\n".join(lines) + "\n").encode())
                self._drop_checkpoints(stage, round_)
        self._finished.append(record)
        return record

    def round_path(self, round_: int, name: str) -> Path:
        """A file of a round."""
        return self.path / f"round-{round_}" / name

    def save_checkpoint(self, stage: str, round_: int, state: dict) -> None:
        """Keep the state of an unfinished stage; the state before it stays until this one is whole."""
        if not self.team.leads:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        now, before = self._checkpoints(stage, round_)
        with naming(now):
            if now.exists():
                now.replace(before)
        write_atomically(now, content + _digest(content))

    def load_checkpoint(self, stage: str, round_: int = 0) -> dict | None:
        """The last whole state of an unfinished stage, or None."""
        return self.team.tell(self._last_whole(stage, round_) if self.team.leads else None)

    def last_checkpoint(self, stage: str, round_: int = 0) -> Path | None:
        """Where the last state of an unfinished stage is kept, if there is one."""
        return next((path for path in self._checkpoints(stage, round_) if path.exists()), None)

    def _last_whole(self, stage: str, round_: int) -> dict | None:
        for path in self._checkpoints(stage, round_):
            with naming(path, "read"):
                content = path.read_bytes() if path.exists() else None
            if content is None:
                continue
            try:
                return _state_in(content)
            except ValueError as error:
                # Else the next state would push the good one before it out.
                with naming(path):
                    path.unlink()
                self._watch.say(
                    f"{path} was damaged ({error}); going on from what was kept before it"
                )
        return None

    def _drop_checkpoints(self, stage: str, round_: int) -> None:
        for path in self._checkpoints(stage, round_):
            with naming(path):
                path.unlink(missing_ok=True)

    def _checkpoints(self, stage: str, round_: int) -> tuple[Path, Path]:
        """The last state of a stage, and the one before."""
        folder = self.path / "checkpoints"
        return folder / f"{stage}-{round_}.pt", folder / f"{stage}-{round_}.before.pt"


def run_in(path: Path) -> Path:
    """The run that is meant by a path: of OUT of `deformlearn demo`, the run in it."""
    inside = path / "run"
    if (path / "config.json").exists() or not (inside / "config.json").is_file():
        return path
    return inside


def read_config(path: Path) -> dict[str, Any]:
    """The configuration (`config`) and data description (`data`) of a run folder.

    `data` has at least the path of the data set, and the name and fingerprint of its template.
    """
    with naming(path / "config.json", "read"):
        there = (path / "config.json").is_file()
    if not there:
        raise InputError(f"{path} is not a run folder: it has no config.json; make one with `run`")
    found = _read_json(path / "config.json")
    try:
        data, template = found["data"], found["data"]["template"]
        words = data["path"], template["template"], template["fingerprint"]
        known = isinstance(found["config"]["rounds"], int)
        known &= all(isinstance(word, str) for word in words)
    except (KeyError, TypeError):
        known = False
    if not known:
        raise InputError(
            f"{path} is not a run folder: its config.json was not written by `run`; give another folder, "
            f"or make one with `run`"
        )
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"cannot read {path}: it holds no JSON object")
    return found


def _change(before: dict | None, now: dict | None) -> str:
    """What happened to a shard."""
    if before is None:
        return "was added"
    if now is None:
        return f"({before['rows']} rows) has gone"
    rows = f"{before['rows']} rows became {now['rows']}"
    return f"was changed ({rows}, {before['bytes']} bytes became {now['bytes']})"


def _state_in(whole: bytes) -> dict:
    """The state in what `save_checkpoint` wrote; anything else is a ValueError."""
    content = whole[:-_DIGEST]
    if _digest(content) != whole[-_DIGEST:]:
        raise ValueError("not what was written there")
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()
