"""What two sets of settings agree and differ in, and the software they were used with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One number that a user may turn, in two places."""

    name: str
    first: Any
    second: Any
    """None where one of them does not know of it."""

    @property
    def same(self) -> bool:
        """Whether both have the same."""
        return self.first == self.second


def compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Setting]:
    """Every setting of `first`, and those that only `second` has, by dotted name."""
    ours, theirs = flat(first), flat(second)
    return [Setting(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs}]


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inside = isinstance(value, Mapping)
        found |= flat(value, f"{above}{name}.") if inside else {above + name: value}
    return found


def versions(run: Path) -> dict[str, str]:
    """The recorded software and hardware; empty where the file is gone or damaged."""
    try:
        found = json.loads((run / "versions.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
