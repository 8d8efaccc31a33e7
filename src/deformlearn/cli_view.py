"""The command that shows people and templates in a browser."""

from __future__ import annotations

from collections.abc import Callable

from deformlearn.config import DemoConfig


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Each command by name; none has numbers of the preset."""
    del default
    return {}
