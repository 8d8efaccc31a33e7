"""Everyone there is to look at: keys and quality of all, sorted and filtered; nothing else is read.

What is kept is columns (some 50 bytes a person), so that a run of 10,000 people opens at once and one of
a million still fits; the bodies themselves are read one person at a time (`people`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deformlearn.data.shards import shards, splits
from deformlearn.data.tables import read_table
from deformlearn.errors import InputError
from deformlearn.files import AnyPath
from deformlearn.findings import EstimatesFile, Findings

EVERYONE = "everyone"
FLAGGED = "flagged"
WORST_FIRST, BEST_FIRST, AS_STORED = "worst first", "best first", "as stored"
ORDERS = (WORST_FIRST, BEST_FIRST, AS_STORED)


@dataclass(frozen=True)
class Sheet:
    """The people of one split, in the order of its file."""

    split: str
    keys: pa.StringArray
    error: np.ndarray
    """(people,) median reprojection error in percent of half the crop; NaN where unknown."""
    flags: pa.DictionaryArray
    """Reasons to doubt each row; "" where nothing is known."""


@dataclass(frozen=True)
class Choice:
    """Whom a list shows, and in which order."""

    split: str = EVERYONE
    flag: str = EVERYONE
    text: str = ""
    order: str = WORST_FIRST


class Roll:
    """The people of some splits, numbered one after the other."""

    def __init__(self, sheets: Sequence[Sheet]) -> None:
        self.splits = tuple(sheet.split for sheet in sheets)
        self._keys = pa.chunked_array([sheet.keys for sheet in sheets], pa.string())
        lengths = [len(sheet.keys) for sheet in sheets]
        self._first = np.concatenate([[0], np.cumsum(lengths)])
        self.error = np.concatenate([np.zeros(0, np.float32), *(one.error for one in sheets)])
        flags = [flag for sheet in sheets for flag in sheet.flags.dictionary.to_pylist()]
        self._words = sorted(set(flags))
        code = {word: number for number, word in enumerate(self._words)}
        self._flag = np.concatenate(
            [np.zeros(0, np.int32)]
            + [
                np.array([code[word] for word in sheet.flags.dictionary.to_pylist()], np.int32)[
                    sheet.flags.indices.to_numpy()
                ]
                for sheet in sheets
            ]
        )

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def reasons(self) -> list[str]:
        """Every single reason that flags somebody."""
        reasons = {reason for word in self._words for reason in word.split("; ")}
        return sorted(reasons - {"", "ok"})

    def key(self, number: int) -> str:
        """Whose name it is."""
        return self._keys[number].as_py()

    def split(self, number: int) -> str:
        """The split that a person is of."""
        return self.splits[self._sheet(number)]

    def row(self, number: int) -> int:
        """Row in the file of the split that was read."""
        return number - int(self._first[self._sheet(number)])

    def flag(self, number: int) -> str:
        """What is wrong with the fit, in words; "ok", or "" where nothing is known."""
        return self._words[self._flag[number]]

    @property
    def keys(self) -> list[str]:
        """Everybody's name."""
        return self._keys.to_pylist()

    def choose(self, choice: Choice) -> np.ndarray:
        """Numbers of the people whom a choice shows, in its order; the unmeasured come last."""
        chosen = np.ones(len(self), bool)
        if choice.split != EVERYONE:
            sheet = self.splits.index(choice.split)
            chosen[: self._first[sheet]] = False
            chosen[self._first[sheet + 1] :] = False
        if choice.flag != EVERYONE:
            chosen &= np.array([_matches(choice.flag, word) for word in self._words])[self._flag]
        if choice.text:
            match = pc.match_substring(self._keys, choice.text, ignore_case=True)
            chosen &= match.to_numpy(zero_copy_only=False) if len(self) else chosen
        numbers = np.flatnonzero(chosen)
        if choice.order == AS_STORED:
            return numbers
        sign = -1 if choice.order == WORST_FIRST else 1
        return numbers[np.argsort(sign * self.error[numbers], kind="stable")]

    def _sheet(self, number: int) -> int:
        return int(np.searchsorted(self._first, number, side="right")) - 1


def _matches(wanted: str, flag: str) -> bool:
    if wanted == FLAGGED:
        return flag not in ("", "ok")
    return wanted in flag.split("; ")


def read_roll(found: Findings) -> Roll:
    """Everyone with estimates; of a data set, everyone with labels.

    The quality is that of the last fit. Not one person is an InputError.
    """
    if found.files:
        sheets = [_of_estimates(_measured(found.of(split))) for split in found.splits]
    elif found.data is not None:
        sheets = [_of_labels(found.data, split) for split in splits(found.data)]
    else:
        sheets = []
    roll = Roll(sheets)
    if not len(roll):
        notes = "; ".join(found.notes) or "it has no shard"
        raise InputError(f"{found.path} has nobody to show: {notes}")
    return roll


def _measured(files: Sequence[EstimatesFile]) -> EstimatesFile:
    """The last file of fits, which know their quality; of predictions alone the last."""
    fits = [file for file in files if file.stage != "predicted"]
    return (fits or list(files))[-1]


def _of_estimates(file: EstimatesFile) -> Sheet:
    table = read_table(file.path, ["key", "reprojection_px", "crop_half", "flag"])
    with np.errstate(divide="ignore", invalid="ignore"):
        error = table["reprojection_px"].to_numpy() / table["crop_half"].to_numpy()
    flags = table["flag"].combine_chunks().cast(pa.string()).fill_null("")
    keys = table["key"].combine_chunks().cast(pa.string()).fill_null("")
    return Sheet(file.split, keys, (100 * error).astype(np.float32), flags.dictionary_encode())


def _of_labels(data: AnyPath, split: str) -> Sheet:
    parts = [pa.array([], pa.string())]
    for path in shards(data, "observations", split):
        with contextlib.suppress(InputError):  # a broken shard costs its own people, no others
            keys = read_table(path, ["key"])["key"]
            parts.append(keys.combine_chunks().cast(pa.string()).fill_null(""))
    keys = pa.concat_arrays(parts)
    unknown = np.full(len(keys), np.nan, np.float32)
    nothing = pa.array([""] * len(keys), pa.string()).dictionary_encode()
    return Sheet(split, keys, unknown, nothing)
