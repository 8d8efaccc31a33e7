"""Writes the pages of the site that come from the code, into docs/generated: python docs/make_pages.py

Commands from their own `--help`, the Python reference from the public names, presets from the
configuration, decisions and examples from their files. `make docs` calls it before the site is built.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import deformlearn
from deformlearn import cli
from deformlearn.config import PRESETS, DemoConfig

DOCS = Path(__file__).parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"

SUBJECTS = {
    "Bodies": "load_template BodyTemplate BodyParameters skin",
    "What an image says": "Observations Crop",
    "Register: labels to bodies": "register RegistrationConfig Estimate Quality Camera "
    "camera_joints project_points fit_photograph fit_keypoints fit_dataset",
    "Lift: 2D joints to depths": "Lifter LifterConfig load_lifter",
    "Learn: images to bodies": "deform_and_learn RunConfig Regressor RegressorConfig load_network "
    "predict_images",
    "Synthetic people": "synthesize SyntheticConfig",
    "Files": "Estimates read_estimates write_estimates",
    "Errors": "InputError",
}
"""The public names by subject; what stands nowhere goes to Files when it writes, else is an error."""


def write_pages() -> list[Path]:
    """Write every generated page; returns their paths."""
    pages = {
        "commands.md": commands_page(),
        "python.md": python_page(),
        "presets.md": presets_page(),
        "decisions.md": decisions_page(),
        "examples.md": examples_page(),
    }
    GENERATED.mkdir(exist_ok=True)
    for name, text in pages.items():
        (GENERATED / name).write_text(text, encoding="utf-8")
    return [GENERATED / name for name in pages]


# ------------------------------------------------------------------ commands


def commands_page() -> str:
    """Every command with its options, from what `--help` prints."""
    default = PRESETS["laptop"]
    plain = list(cli.commands(default))
    grouped = {name: list(made(default)) for name, (made, _) in cli.GROUPS.items()}
    parts = [
        "# Commands\n",
        "Written from the commands' own `--help`. The defaults are those of the preset `laptop`; "
        "another `--preset` changes them ([presets](presets.md)). `python -m deformlearn` is the same "
        "as `deformlearn`.\n",
    ]
    parts += [_command(name) for name in plain]
    for group, names in grouped.items():
        parts += [f"## {group}\n", f"{cli.GROUPS[group][1]}\n"]
        parts += [_command(group, name) for name in names]
    return "\n".join(parts)


def help_of(*words: str) -> str:
    """What `deformlearn WORDS --help` prints."""
    printed = io.TextIOWrapper(
        io.BytesIO(), encoding="utf-8"
    )  # tyro draws boxes where they can be had
    # tyro asks shutil for the terminal's width, which asks the environment first.
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    printed.seek(0)
    return re.sub(r"\x1b\[[0-9;]*m", "", printed.read())


def _command(*words: str) -> str:
    text = help_of(*words)
    usage, _, rest = text.partition("\n\n")
    about, _, boxes = rest.partition("╭─")
    usage = " ".join(usage.removeprefix("usage: ").split()).replace(" [-h]", "")
    lines = [f"{'#' * (1 + len(words))} {' '.join(words)}\n", f"{about.strip()}\n"]
    lines.append(f"```text\n{usage}\n```\n")
    own: list[tuple[str, str]] = []
    numbers = []  # of a configuration: many, and rarely needed
    for title, note, options in _boxes("╭─" + boxes):
        if title in ("positional arguments", "options"):
            own += options
        else:
            folded = f"{note}\n\n{_table(options)}"
            numbers.append(f'??? note "{len(options)} {title}"\n\n{_indented(folded)}')
    return "\n".join([*lines, _table(own), "", *numbers])


def _boxes(text: str) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Each box of a help text: its title, its remark, and its options with what is said of them."""
    for box in re.findall(r"╭─ (.*?) ─*╮\n(.*?)╰─", text, re.DOTALL):
        title, body = box
        lines = [re.sub(r"^│ ?(.*?) *│$", r"\1", line) for line in body.splitlines()]
        note = []
        if any(set(line) == {"─"} for line in lines):
            cut = next(i for i, line in enumerate(lines) if set(line) == {"─"})
            note, lines = lines[:cut], lines[cut + 1 :]
        options: list[tuple[str, str]] = []
        for line in lines:
            begins = re.match(r"(\S(?:.*?\S)?)(?:\s{2,}(.*))?$", line)
            if begins and not line.startswith(" "):
                options.append((begins[1], begins[2] or ""))
            elif options:
                name, said = options[-1]
                options[-1] = (name, f"{said} {line.strip()}".strip())
        options = [(name, said) for name, said in options if not name.startswith("-h,")]
        if options:
            yield title, " ".join(line.strip() for line in note), options


def _table(options: list[tuple[str, str]]) -> str:
    rows = ["| | default | |", "|---|---|---|"]
    for name, said in options:
        found = re.search(r" ?\((?:default: (.*?)|(required))\)$", said)
        default = "" if found is None else (found[2] or f"`{found[1]}`" if found[1] != "" else "")
        said = said if found is None else said[: found.start()]
        shown = name.replace("{None}|", "").replace("|", "\\|")
        rows.append(f"| `{shown}` | {default if default != '`None`' else ''} | {_escaped(said)} |")
    return "\n".join(rows)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*_", "\\*_").replace("<", "&lt;")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in f"{text}\n".splitlines())


# ------------------------------------------------------------------ Python


def python_page() -> str:
    """The public names of the package, each from its docstring and types."""
    named = {name for names in SUBJECTS.values() for name in names.split()}
    everywhere = set(deformlearn.__all__) - {"__version__"}
    if missing := named - everywhere:
        raise SystemExit(f"docs/make_pages.py speaks of names that are not public: {missing}")
    rest = sorted(everywhere - named)
    subjects = {title: names.split() for title, names in SUBJECTS.items()}
    subjects["Files"] += rest
    parts = [
        "# Python\n",
        "Everything public is imported from `deformlearn` itself. Shapes stand in the types: "
        '`Float[Tensor, "*batch 23 3"]` is a tensor of floats whose last two axes are 23 and 3. '
        "Lengths are metres, angles radians, image units [-1, 1] across the crop (x right, y down, z "
        "away), unless a name says otherwise (`_mm`, `_px`).\n",
    ]
    for title, names in subjects.items():
        parts.append(f"## {title}\n")
        parts += [_documented(name) for name in names]
    return "\n".join(parts)


def _documented(name: str) -> str:
    """The block that mkdocstrings replaces by the documentation of a public name."""
    found = getattr(deformlearn, name)
    block = f"::: {_home(name)}\n    options:\n      heading: {name}\n      toc_label: {name}\n"
    if found.__name__ == name:
        return block
    return f"{block}\n*`deformlearn.{name}` is `{_home(name)}`.*\n"


def _home(name: str) -> str:
    """Where a public name is defined, as its documentation must be asked for."""
    found = getattr(deformlearn, name)
    return f"{found.__module__}.{found.__qualname__}"


# ------------------------------------------------------------------ presets, decisions, examples


def presets_page() -> str:
    """Every number of every preset that is not the same in all of them."""
    rows = {name: dict(_numbers(config)) for name, config in PRESETS.items()}
    names = list(PRESETS)
    lines = [
        "# Presets\n",
        "`--preset NAME` of `demo`, `synth` and `run` chooses all numbers at once; any of them may be "
        "given beside it (`demo --run.rounds 5`, `run --rounds 5`). These differ between presets; what "
        "they mean is said at the [commands](commands.md).\n",
    ]
    stage = ""
    for option in rows[names[0]]:
        values = [rows[name][option] for name in names]
        if len(set(values)) == 1:
            continue
        of, _, number = option.rpartition(".")
        if of != stage:
            lines += [f"\n## {of}\n", f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
            stage = of
        lines.append(f"| `{number}` | {' | '.join(str(value) for value in values)} |")
    lines.append(
        "\n`tiny` is for tests, `laptop` (the default) for two CPU cores and ten minutes, `gpu` for one or "
        "more GPUs. The three `paper` presets hold the paper's numbers, as far as it states them "
        "([reproduce](../reproduce.md)). What it leaves open is ours: augmentation, and the dropout of the "
        "network's head.\n"
    )
    return "\n".join(lines)


def _numbers(config: DemoConfig, prefix: str = "") -> Iterator[tuple[str, object]]:
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from _numbers(value, f"{prefix}{one.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{one.name}".replace("_", "-"), value


def decisions_page() -> str:
    """The list of decision notes."""
    lines = [
        "# Decisions\n",
        "What the paper leaves open, and every choice that a reasonable reader would question: what was "
        "asked, what was decided, what follows.\n",
    ]
    for path in sorted((DOCS / "decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        number, _, words = title.partition(" ")
        lines.append(f"- {number} [{words}](../decisions/{path.name})")
    return "\n".join(lines) + "\n"


FIRST_EXAMPLES = (
    "fit_people densepose_to_body your_own_rig lift_keypoints train_and_predict".split()
)
"""In the order in which to read them; others follow by name."""


def examples_page() -> str:
    """The examples: what each one shows, and its code."""
    lines = [
        "# Examples in Python\n",
        "Each is a file of the folder `examples`, runs as it is in under a minute on one core, and ends "
        "with something to look at. They need the installed package, and the files that they name.\n",
    ]
    known = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
    for name in dict.fromkeys([*FIRST_EXAMPLES, *known]):
        code = known[name].read_text(encoding="utf-8")
        tree = ast.parse(code)
        about = (ast.get_docstring(tree) or "").split("\n\n")
        title, colon, rest = " ".join(about[0].split()).partition(": ")
        lines += [f"## {title.rstrip('.')}\n", f"`examples/{name}.py`{colon}{rest}\n"]
        for paragraph in about[1:]:
            words = " ".join(paragraph.split())
            typed = words.startswith(("python ", "blender "))
            lines.append(f"```text\n{words}\n```\n" if typed else f"{words}\n")
        body = "\n".join(code.splitlines()[tree.body[0].end_lineno or 0 :]).strip()
        lines.append(f"```python\n{body}\n```\n")
    return "\n".join(lines)


if __name__ == "__main__":
    for page in write_pages():
        print(f"written: {page.relative_to(ROOT)}")
