"""What each chunk of an import came to, kept on disk until all are there, and the table of rejects.

The record of a chunk is written after its shard: it says that the shard is whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deformlearn.data.soundness import Rejected, without_details
from deformlearn.data.sources import Entry
from deformlearn.errors import InputError
from deformlearn.files import write_atomically

AFTER_ALL = 99_999
"""Number of the record of rejects that no single chunk could know of."""

_SHOWN = 3
"""Reasons that a message names."""


@dataclass(frozen=True)
class Tally:
    """What one chunk, or several, came to."""

    rows: int = 0
    rejected: int = 0
    points: int = 0
    """Dense correspondences of all rows."""
    bare: dict[str, int] = field(default_factory=dict)
    """Rows without any, by the first of like reasons; "" where nobody promised any."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.rows + other.rows,
            self.rejected + other.rejected,
            self.points + other.points,
            _added([*self.bare.items(), *other.bare.items()]),
        )


def counted(reasons: Sequence[str]) -> dict[str, int]:
    """How often each reason is given, its own numbers and paths aside; the first stands for its like."""
    return _added((reason, 1) for reason in reasons)


def _added(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    first: dict[str, str] = {}
    total: Counter[str] = Counter()
    for reason, count in counts:
        total[first.setdefault(without_details(reason), reason)] += count
    return dict(total)


def main_reasons(counts: dict[str, int]) -> str:
    """The most frequent reasons in words, each with an example where they differ in details."""
    named = Counter({reason: count for reason, count in counts.items() if reason})
    return "; ".join(_reason(*one) for one in named.most_common(_SHOWN))


def _reason(first: str, count: int) -> str:
    common = without_details(first)
    if count == 1 or common == first:
        return f"{count} x {first}"
    return f"{count} x {common} (the first: {first})"


def digest_of(entries: Sequence[Entry | Rejected]) -> str:
    """What tells the entries of a chunk from others."""
    names = "\n".join(one.where for one in entries)
    return hashlib.blake2b(names.encode(errors="backslashreplace"), digest_size=16).hexdigest()


def record_of(work: Path, split: str, number: int) -> Path:
    """Where the record of a chunk is."""
    return work / "chunks" / f"{split}-{number:05d}.json"


def any_done(work: Path) -> bool:
    """Whether a chunk is finished."""
    return any((work / "chunks").glob("*.json"))


def write_record(path: Path, digest: str, tally: Tally, rejected: Sequence[Rejected]) -> None:
    """Say that a chunk is finished, and what of it was rejected."""
    listed = [[*_file_and_row(one.where), " ".join(one.reason.split())] for one in rejected]
    content = {"entries": digest, "tally": asdict(tally), "rejected": listed}
    write_atomically(path, json.dumps(content).encode())


def read_tally(path: Path, digest: str) -> Tally | None:
    """What a finished chunk came to; None of one that is not.

    A chunk that was made of other entries is an InputError.
    """
    if not path.exists():
        return None
    content = json.loads(path.read_bytes())
    if content["entries"] != digest:
        raise changed(path)
    return Tally(**content["tally"])


def changed(record: Path) -> InputError:
    """The source has other entries than when the chunk of this record was made."""
    return InputError(
        f"the source is not what it was when this import began: files came, went or changed; "
        f"delete {record.parents[1]} to begin again"
    )


def rejects(work: Path, split: str) -> Iterator[list[str]]:
    """The rejects (file, row, reason) of all finished chunks."""
    for path in sorted((work / "chunks").glob(f"{split}-*.json")):
        yield from json.loads(path.read_bytes())["rejected"]


def write_table(work: Path, out: Path, split: str) -> None:
    """Write what a user reads: file, row and reason of all rejects."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "row", "reason"])
    writer.writerows(rejects(work, split))
    # A file's name need not be text.
    content = text.getvalue().encode(errors="backslashreplace")
    write_atomically(out / f"rejects-{split}.csv", content)


def _file_and_row(where: str) -> tuple[str, str]:
    """`where` cut after the file it names."""
    found = re.match(r"(.*?\.\w+)[\s:,]+(.+)", where)
    return (found[1], found[2]) if found else (where, "")
