"""The command line: one subcommand a step. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys

import tyro

from deformlearn import cli_data, cli_export, cli_import, cli_run, cli_view
from deformlearn.config import PRESETS, DemoConfig
from deformlearn.errors import InputError

_GROUPS = {
    "import": (
        cli_import.commands,
        "Convert a data set to ours: shards, rejects, a page to look at.",
    ),
    "body": (
        cli_data.body_commands,
        "Look at a rigged human, or map one body's surface to another's.",
    ),
}
"""Commands that have commands of their own."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input is one line on stderr and exit code 2."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        _run(words)
    except InputError as error:
        print(f"deformlearn: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("deformlearn: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _run(words: list[str]) -> None:
    default = _preset(words)
    about = "3D human body shape and pose from images, learned without 3D supervision."
    if words and words[0] in _GROUPS:
        commands, about = _GROUPS[words[0]]
        inner = words[1:]
        if words[0] == "body" and (not inner or inner[0] not in ("map", "show", "--help", "-h")):
            inner = ["show", *inner]  # `body FILE` is what people type
        tyro.extras.subcommand_cli_from_dict(
            commands(default), prog=f"deformlearn {words[0]}", description=about, args=inner
        )
        return
    everything = {
        **cli_run.commands(default),
        **cli_data.commands(default),
        **cli_export.commands(default),
        **cli_view.commands(default),
        **_group_stubs(),
    }
    tyro.extras.subcommand_cli_from_dict(
        everything, prog="deformlearn", description=about, args=words
    )


def _group_stubs() -> dict:
    """What the list of commands says of those that have their own."""

    def stub(text: str):
        def group() -> None: ...

        group.__doc__ = text
        return group

    return {name: stub(text) for name, (_, text) in _GROUPS.items()}


def _preset(words: list[str]) -> DemoConfig:
    """The preset named on the command line: its numbers are the defaults of all other options."""
    for position, word in enumerate(words):
        name = word.partition("=")[2] if word.startswith("--preset=") else None
        if word == "--preset" and position + 1 < len(words):
            name = words[position + 1]
        if name in PRESETS:
            return PRESETS[name]
    return PRESETS["laptop"]


if __name__ == "__main__":
    main()
