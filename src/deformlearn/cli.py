"""The command line: one subcommand a step. Heavy imports happen inside the commands."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union

import tyro

import deformlearn
from deformlearn import cli_data, cli_export, cli_import, cli_run, cli_view
from deformlearn.config import PRESETS, DemoConfig
from deformlearn.errors import InputError, told

ABOUT = "3D human body shape and pose from images, learned without 3D supervision."

GROUPS = {
    "import": (
        cli_import.commands,
        "Convert a data set to ours: shards, rejects, a page to look at.",
    ),
    "body": (
        cli_data.body_commands,
        "Look at a rigged human, or map one body's surface to another's.",
    ),
}
"""Commands that have commands of their own, and what the list of commands says of them."""

_FILES_IN_BASH = """
# Where no option or command fits, a file does: photographs and folders have no option before them.
_deformlearn() {
  _tyro_deformlearn
  [ -n "${COMPREPLY[*]}" ] || COMPREPLY=()
}
complete -o default -F _deformlearn deformlearn
"""


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input is one line on stderr and exit code 2."""
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None:
        # Whatever Python this command starts (torch does too) takes no module from the current folder,
        # which may be a data set's.
        os.environ["PYTHONSAFEPATH"] = "1"
    try:
        for word in words:
            word.encode()
        _run(words)
    except InputError as error:
        print(f"deformlearn: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("deformlearn: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (
        BrokenPipeError
    ):  # whoever read our output has seen enough, as in `deformlearn ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError, UnicodeEncodeError) as error:
        if (text := told(error)) is None:
            raise
        print(f"deformlearn: {text}", file=sys.stderr)
        sys.exit(2)


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Every command by name, but for those of `GROUPS`; `default` gives the numbers nobody named."""
    return {
        **cli_run.commands(default),
        **cli_data.commands(default),
        **cli_export.commands(default),
        **cli_view.commands(default),
        "completion": completion,
    }


def completion(shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]) -> None:
    """Print what makes the Tab key complete our commands and options in your shell.

    Args:
        shell: bash, zsh or fish.

    """
    default = PRESETS["laptop"]
    nested = {name: _nested(made(default), about) for name, (made, about) in GROUPS.items()}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            {**commands(default), **nested},
            prog="deformlearn",
            args=["--tyro-write-completion", shell, "-"],
        )
    for line in printed.getvalue().splitlines():
        # A line break in what is said of an option would be taken for another option.
        print(re.sub(r"\\+n", " ", line) if line.startswith("COMPLETION_SPEC") else line)
    if shell == "bash":
        print(_FILES_IN_BASH)


def _run(words: list[str]) -> None:
    if words == ["--version"]:
        print(f"deformlearn {deformlearn.__version__}")
        return
    _refuse_processes(words)
    default = _preset(words)
    if words and words[0] in GROUPS:
        made, about = GROUPS[words[0]]
        inner = words[1:]
        if words[0] == "body" and (not inner or inner[0] not in ("map", "show", "--help", "-h")):
            inner = ["show", *inner]  # `body FILE` is what people type
        tyro.extras.subcommand_cli_from_dict(
            made(default), prog=f"deformlearn {words[0]}", description=about, args=inner
        )
        return
    stubs = {name: _stub(about) for name, (_, about) in GROUPS.items()}
    tyro.extras.subcommand_cli_from_dict(
        {**commands(default), **stubs}, prog="deformlearn", description=ABOUT, args=words
    )


def _refuse_processes(words: list[str]) -> None:
    """Refuse what several processes would each do whole, into the same files."""
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and command not in cli_run.SHARED:
        cli_run.refuse_processes(command)


def _stub(text: str) -> Callable:
    """A group in the list of commands: its own are not imported for that."""

    def group() -> None: ...

    group.__doc__ = text
    return group


def _nested(inner: dict[str, Callable], text: str) -> Callable:
    """A group with its commands, for completion, which must know them all at once."""
    choices = [
        Annotated[Any, tyro.conf.subcommand(name, constructor=inner[name])] for name in inner
    ]

    def group(chosen) -> None: ...

    one_of = Union.__getitem__(tuple(choices))  # a union that is only known when it is made
    group.__annotations__ = {
        "chosen": Annotated[one_of, tyro.conf.OmitSubcommandPrefixes],
        "return": None,
    }
    group.__doc__ = text
    return group


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
