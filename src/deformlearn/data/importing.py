"""From a data set on disk to our shards: streaming, in parallel, resumable (docs/data_format.md).

Entries are taken in chunks, and a chunk becomes a shard, written whole by one worker. Until all are
there they wait in DATA/.import-<split>; then they are moved into place. So a data set is never half
there, a killed import goes on with the chunk it was at, and memory holds a few chunks, not the data.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from itertools import count, islice
from pathlib import Path

import pyarrow.parquet as pq

from deformlearn.body import BodyTemplate
from deformlearn.config import ImportConfig
from deformlearn.crew import crew, in_order, require_workers
from deformlearn.data.convert import Converter
from deformlearn.data.duplicates import drop_duplicates
from deformlearn.data.shards import (
    DatasetInfo,
    read_info,
    shards,
    write_info,
    write_rows,
    write_truth,
)
from deformlearn.data.soundness import Rejected, without_details
from deformlearn.data.sources import Entry, Person, Source
from deformlearn.errors import InputError, remedy
from deformlearn.files import write_atomically
from deformlearn.progress import QUIET, Watch
from deformlearn.skeleton import joint_set

_KINDS = ("observations", "truth")

_AFTER_ALL = 99_999
"""Number of the table of rejects that no single chunk could know of."""


@dataclass(frozen=True)
class Imported:
    """What became of an import."""

    rows: int
    rejected: int
    points: int
    """Dense correspondences of all rows."""
    bare: int
    """Rows without any."""
    already: bool = field(default=False, compare=False)
    """It had been done before; nothing was written."""


@dataclass(frozen=True)
class _Tally:
    """What one chunk came to."""

    rows: int
    rejected: int
    points: int
    bare: int


def import_source(
    source: Source,
    out: Path,
    template: BodyTemplate,
    converter: Converter,
    config: ImportConfig,
    *,
    split: str = "train",
    workers: int = 1,
    watch: Watch = QUIET,
) -> Imported:
    """Convert everything in `source` to rows of the split in the data set `out`.

    The same call goes on where it was killed and does nothing where it was finished; another source
    or other options in the same place are an InputError, as is a source without one good row. What
    could not be used is in `out/rejects-<split>.csv`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise InputError(f"a split is named by letters, digits and _, got {split!r}")
    require_workers(workers)
    recipe = _recipe(source, template, converter, config)
    record = out / f"import-{split}.json"
    if record.exists():
        return _finished_before(record, recipe, out)
    info = _info(out, source, template, converter)
    work = out / f".import-{split}"
    _claim(work, recipe, out, split)
    try:
        with watch.stage(f"import {split}", None) as advance:
            counted = _count_beside(source, advance)
            total = _convert_all(source, converter, work, split, config, workers, advance)
            counted.join()
    except InputError:
        _leave_no_trace(work, out)
        raise
    if not total.rows:
        _write_table_of_rejects(work, out, split)
        reasons = _main_reasons(work, split)
        shutil.rmtree(work)
        raise InputError(
            f"nothing could be imported: all {total.rejected} entries were rejected ({reasons}); "
            f"see {out / f'rejects-{split}.csv'}"
            if total.rejected
            else "nothing could be imported: the source is empty"
        )
    _note_duplicates(work, split)
    _move_into_place(work, out, split)
    write_info(out, info)
    rejected = sum(1 for _ in _rejects(work, split))
    result = Imported(_rows_of(out, split), rejected, total.points, total.bare)
    content = {"recipe": recipe, **asdict(result)}
    write_atomically(record, json.dumps(content, indent=2).encode())
    shutil.rmtree(work)
    return result


def _main_reasons(work: Path, split: str) -> str:
    counts = Counter(without_details(row[2]) for row in _rejects(work, split))
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))


def _leave_no_trace(work: Path, out: Path) -> None:
    """Take away what an import made that could not begin; one that had begun can go on."""
    if not any((work / "rejects").glob("*.csv")):
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            out.rmdir()  # only if there is nothing else in it


def _rows_of(out: Path, split: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in shards(out, "observations", split))


def _recipe(
    source: Source, template: BodyTemplate, converter: Converter, config: ImportConfig
) -> dict:
    """What the result depends on, as plain text that can be compared."""
    return {
        "source": repr(source),
        "template": template.fingerprint,
        "converter": repr(converter),
        "options": asdict(config),
    }


def _info(out: Path, source: Source, template: BodyTemplate, converter: Converter) -> DatasetInfo:
    landmarks = tuple(joint_set(source.joints).landmarks) if source.has_truth else ()
    info = DatasetInfo(
        template.name, template.fingerprint, source.joints, landmarks, source.description
    )
    if not (out / "dataset.json").exists():
        return info
    found = read_info(out)
    same = (found.fingerprint, found.joints) == (info.fingerprint, info.joints)
    if not same or (found.landmarks and landmarks and found.landmarks != landmarks):
        raise InputError(
            f"{out} is a data set of the template {found.template!r} with the joints "
            f"{found.joints!r}; this one has {template.name!r} and {source.joints!r}; "
            f"give another --out"
        )
    described = [text for text in (found.description, info.description) if text]
    return replace(
        found,
        landmarks=found.landmarks or landmarks,
        description="; ".join(dict.fromkeys(described)),
    )


def _finished_before(record: Path, recipe: dict, out: Path) -> Imported:
    try:
        found = json.loads(record.read_text("utf-8"))
        numbers = {name: int(found[name]) for name in ("rows", "rejected", "points", "bare")}
        before = Imported(**numbers, already=True)
        differing = [key for key in recipe if found["recipe"].get(key) != recipe[key]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{record} is damaged ({error}); delete {out}") from error
    if differing:
        raise InputError(
            f"{record} says that this split was imported from another {differing[0]}; "
            f"give another --out or --split"
        )
    return before


def _claim(work: Path, recipe: dict, out: Path, split: str) -> None:
    """Go on with an unfinished import of the same, or begin one."""
    claim = work / "recipe.json"
    if claim.exists():
        try:
            found = json.loads(claim.read_text("utf-8"))
        except ValueError:
            found = None
        if found == recipe:
            for stale in work.rglob(".*.part"):  # of a process that was killed while it wrote
                stale.unlink()
            return
        if any(path.suffix == ".csv" for path in (work / "rejects").glob("*")):
            raise InputError(
                f"{work} holds an unfinished import with another source or other options; "
                f"go on with those, or delete it"
            )
    elif any((out / "observations").glob(f"{split}-*.parquet")):
        raise InputError(
            f"{out} already has a split {split!r} that was not imported; give another --out or --split"
        )
    write_atomically(claim, json.dumps(recipe).encode())


def _count_beside(source: Source, advance: Callable) -> threading.Thread:
    """Count the entries in a thread of its own: the time that is left shows as soon as it knows."""

    def count() -> None:
        # The conversion meets the same error, and reports it.
        with contextlib.suppress(InputError):
            advance(None, sum(1 for _ in source.entries()))

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    return thread


def _convert_all(
    source: Source,
    converter: Converter,
    work: Path,
    split: str,
    config: ImportConfig,
    workers: int,
    advance: Callable,
) -> _Tally:
    tallies: list[_Tally] = []
    done = 0
    items = source.entries()
    chunks = iter(lambda: list(islice(items, source.chunk)), [])

    def finish(result: tuple[_Tally, int]) -> None:
        nonlocal done
        tallies.append(result[0])
        done += result[1]
        advance(done)

    if workers <= 1:
        for number, chunk in enumerate(chunks):
            tally = _done(work, split, number)
            if tally is None:
                tally = _convert(source, converter, work, split, number, chunk)
            finish((tally, len(chunk)))
        return _sum(tallies)

    def begun(number: int, chunk: list[Entry | Rejected]) -> Callable[[], tuple[_Tally, int]]:
        if (tally := _done(work, split, number)) is not None:
            return lambda: (tally, len(chunk))
        task = submit(_convert, source, converter, work, split, number, chunk)
        return lambda: (task.result(), len(chunk))

    with crew(workers) as submit:
        for result in in_order(map(begun, count(), chunks), 2 * workers):
            finish(result)
    return _sum(tallies)


def _sum(tallies: Sequence[_Tally]) -> _Tally:
    columns = zip(*(astuple(one) for one in tallies), strict=True)
    return _Tally(*(sum(column) for column in columns)) if tallies else _Tally(0, 0, 0, 0)


def _convert(
    source: Source,
    converter: Converter,
    work: Path,
    split: str,
    number: int,
    chunk: list[Entry | Rejected],
) -> _Tally:
    """Turn a chunk into a shard. The table of rejects is written last: it says the rest is there."""
    people: list[Person] = []
    rejected: list[Rejected] = []
    for item in chunk:
        if isinstance(item, Rejected):
            rejected.append(item)
            continue
        try:
            found = source.people(item)
        except InputError as error:
            rejected.append(Rejected(item.where, str(error)))
            continue
        people += [one for one in found if isinstance(one, Person)]
        rejected += [one for one in found if isinstance(one, Rejected)]
    converted = converter.rows(people, source.joints)
    rejected += converted.rejected
    if converted.rows:
        write_rows(work, split, number, converted.rows)
    if converted.truths:
        write_truth(work, split, number, converted.truths)
    counts = [len(row.points) for row in converted.rows]
    tally = _Tally(len(counts), len(rejected), sum(counts), counts.count(0))
    _write_rejects(_rejects_path(work, split, number), rejected, tally)
    return tally


def _rejects_path(work: Path, split: str, number: int) -> Path:
    return work / "rejects" / f"{split}-{number:05d}.csv"


def _write_rejects(path: Path, rejected: Sequence[Rejected], tally: _Tally) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(astuple(tally))
    for one in rejected:
        writer.writerow([*_file_and_row(one.where), " ".join(one.reason.split())])
    write_atomically(path, text.getvalue().encode())


def _file_and_row(where: str) -> tuple[str, str]:
    """`where` cut after the file it names."""
    found = re.match(r"(.*?\.\w+)[\s:,]+(.+)", where)
    return (found[1], found[2]) if found else (where, "")


def _done(work: Path, split: str, number: int) -> _Tally | None:
    path = _rejects_path(work, split, number)
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        return _Tally(*(int(value) for value in next(csv.reader(file))))


def _rejects(work: Path, split: str) -> Iterator[list[str]]:
    """The rows (file, row, reason) of all finished chunks."""
    for path in sorted((work / "rejects").glob(f"{split}-*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            next(rows)
            yield from rows


def _note_duplicates(work: Path, split: str) -> None:
    """Leave out rows whose key an earlier row has, and list them."""
    dropped = drop_duplicates(work, split)
    if dropped:
        path = _rejects_path(work, split, _AFTER_ALL)
        _write_rejects(path, dropped, _Tally(0, len(dropped), 0, 0))


def _write_table_of_rejects(work: Path, out: Path, split: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "row", "reason"])
    writer.writerows(_rejects(work, split))
    write_atomically(out / f"rejects-{split}.csv", text.getvalue().encode())


def _move_into_place(work: Path, out: Path, split: str) -> None:
    _write_table_of_rejects(work, out, split)
    try:
        for kind in _KINDS:
            for path in sorted((work / kind).glob(f"{split}-*.parquet")):
                target = out / kind / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror or error}; {remedy(error)}"
        ) from error
