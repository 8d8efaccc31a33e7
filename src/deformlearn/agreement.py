"""Whether two descriptions of the same work agree, and whether all processes were given the same."""

from __future__ import annotations

from typing import Any

from deformlearn.distributed import Team
from deformlearn.errors import InputError

_SAID = 4
"""Differences that are named; more would hide the first."""


def agree(team: Team, mine: dict[str, Any], *, ignored: tuple[str, ...] = ()) -> None:
    """Refuse, on all processes, what one of them was given and process 0 was not, by name.

    `mine` says what this process was given, as plain numbers and words. Every process must come here,
    before anything is done.
    """
    first = team.tell(mine)
    with team.refuse_together():
        if changes := differences(first, mine, ignored=ignored):
            raise InputError(
                f"process {team.rank} was given something else than process 0 "
                f"({said(changes)}); give all the same options and data"
            )


def differences(
    found: Any, wanted: Any, name: str = "", *, ignored: tuple[str, ...] = ()
) -> list[str]:
    """Where two nested dictionaries disagree, as `a.b: 1 became 2`; `ignored` are keys at any depth."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(found.keys() | wanted.keys())
        parts = [
            differences(
                found.get(key),
                wanted.get(key),
                f"{name}.{key}" if name else key,
                ignored=ignored,
            )
            for key in keys
            if key not in ignored
        ]
        return [change for part in parts for change in part]
    return [] if found == wanted else [f"{name}: {found} became {wanted}"]


def said(changes: list[str]) -> str:
    """The first few differences in one line."""
    return "; ".join(changes[:_SAID])
