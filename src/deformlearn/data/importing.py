"""From a data set on disk to our shards: streaming, in parallel, resumable (docs/data_format.md).

Entries are taken in chunks, and a chunk becomes a shard, written whole by one worker. Until all are
there they wait in DATA/.import-<split>; then they are moved into place. So a data set is never half
there, a killed import goes on with the chunk it was at, and memory holds a few chunks, not the data.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from deformlearn.body import BodyTemplate
from deformlearn.config import ImportConfig
from deformlearn.crew import crew, in_order, require_workers
from deformlearn.data.chunks import (
    AFTER_ALL,
    Tally,
    any_done,
    changed,
    counted,
    digest_of,
    main_reasons,
    read_tally,
    record_of,
    rejects,
    write_record,
    write_table,
)
from deformlearn.data.convert import Converter
from deformlearn.data.duplicates import drop_duplicates
from deformlearn.data.shards import DatasetInfo, read_info, shards, write_info, write_rows
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Person, Source
from deformlearn.data.truth import write_truth
from deformlearn.errors import InputError, remedy
from deformlearn.files import write_atomically
from deformlearn.locks import alone_in
from deformlearn.progress import QUIET, Watch
from deformlearn.skeleton import joint_set

_KINDS = ("observations", "truth")


@dataclass(frozen=True)
class Imported:
    """What became of an import."""

    rows: int
    rejected: int
    points: int
    """Dense correspondences of all rows."""
    bare: int
    """Rows without any."""
    bare_because: str = ""
    """The main reasons, where points were to be had."""
    already: bool = field(default=False, compare=False)
    """It had been done before; nothing was written."""


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

    The same call goes on where it was killed and does nothing where it was finished. Another source, one
    whose files have changed, or other options in the same place are an InputError; so are a source
    without one good row, and points that were to reach everybody and reached nobody. One process at a
    time works in `out`. What could not be used is in `out/rejects-<split>.csv`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", split):
        raise InputError(f"a split is named by letters, digits and _, got {split!r}")
    require_workers(workers)
    recipe = _recipe(source, template, converter, config)
    record = out / f"import-{split}.json"
    if record.exists():
        return _finished_before(record, recipe, out)
    converter.require_charts()
    with alone_in(out):
        if record.exists():  # by another process, a moment ago
            return _finished_before(record, recipe, out)
        info = _info(out, source, template, converter)
        work = out / f".import-{split}"
        _claim(work, recipe, out, split)
        try:
            with watch.stage(f"import {split}", None) as advance:
                counting = _count_beside(source, advance)
                whole = _convert_all(source, converter, work, split, config, workers, advance)
                counting.join()
        except InputError:
            if not any_done(work):  # what had begun can go on
                shutil.rmtree(work, ignore_errors=True)
            raise
        _require_people(whole, converter, work, out, split)
        _note_duplicates(work, split)
        _move_into_place(work, out, split)
        write_info(out, info)
        rejected = sum(1 for _ in rejects(work, split))
        bare = sum(whole.bare.values())
        result = Imported(
            _rows_of(out, split), rejected, whole.points, bare, main_reasons(whole.bare)
        )
        content = {"recipe": recipe, **asdict(result)}
        write_atomically(record, json.dumps(content, indent=2).encode())
        shutil.rmtree(work)
        return result


def _require_people(whole: Tally, converter: Converter, work: Path, out: Path, split: str) -> None:
    """Refuse a source of nobody, and points promised to all that reached nobody."""
    if not whole.rows:
        write_table(work, out, split)
        reasons = main_reasons(counted([row[2] for row in rejects(work, split)]))
        shutil.rmtree(work)
        raise InputError(
            f"nothing could be imported: all {whole.rejected} entries were rejected ({reasons}); "
            f"see {out / f'rejects-{split}.csv'}"
            if whole.rejected
            else "nothing could be imported: the source is empty"
        )
    if converter.enrich is not None and not whole.points:
        shutil.rmtree(work)
        raise InputError(
            f"none of {whole.rows} people got a dense point ({main_reasons(whole.bare)}); "
            f"mend that, or import them without"
        )


def _rows_of(out: Path, split: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in shards(out, "observations", split))


def _recipe(
    source: Source, template: BodyTemplate, converter: Converter, config: ImportConfig
) -> dict:
    """What the result depends on, as plain text that can be compared."""
    return {
        "source": [repr(source), *_files_of(source)],
        "template": template.fingerprint,
        "converter": [repr(converter), *_files_of(converter)],
        "options": asdict(config),
    }


def _files_of(value: Any) -> list[str]:
    """Where the files and folders are that a dataclass names; of files also what tells if they change."""
    if isinstance(value, Path):
        with contextlib.suppress(
            OSError, ValueError
        ):  # whoever reads it says what is wrong with it
            stat, place = value.stat(), str(value.resolve())
            return [place if value.is_dir() else f"{place} {stat.st_size} {stat.st_mtime_ns}"]
    if not is_dataclass(value):
        return []
    named = (getattr(value, one.name) for one in fields(value) if one.repr)
    return [place for one in named for place in _files_of(one)]


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
        before = Imported(**numbers, bare_because=str(found["bare_because"]), already=True)
        differing = [key for key in recipe if found["recipe"].get(key) != recipe[key]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{record} is damaged ({error}); delete {out}") from error
    if differing:
        raise InputError(
            f"{record} says that this split was imported from another {differing[0]}, or from files "
            f"that have changed; give another --out or --split, or delete {out} to import again"
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
        if any_done(work):
            raise InputError(
                f"{work} holds an unfinished import of another source, of files that have changed, or "
                f"with other options; go on with those, or delete it"
            )
        shutil.rmtree(work)
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
) -> Tally:
    whole = Tally()
    made = done = 0
    items = source.entries()
    chunks = iter(lambda: list(islice(items, source.chunk)), [])

    def finish(result: tuple[Tally, int]) -> None:
        nonlocal whole, made, done
        whole += result[0]
        made += 1
        done += result[1]
        advance(done)

    def begun(number: int, chunk: list[Entry | Rejected]) -> Callable[[], tuple[Tally, int]]:
        tally = read_tally(record_of(work, split, number), digest_of(chunk))
        if tally is not None:
            return lambda: (tally, len(chunk))
        task = submit(_convert, source, converter, work, split, number, chunk)
        return lambda: (task.result(), len(chunk))

    if workers == 1:
        for number, chunk in enumerate(chunks):
            tally = read_tally(record_of(work, split, number), digest_of(chunk))
            if tally is None:
                tally = _convert(source, converter, work, split, number, chunk)
            finish((tally, len(chunk)))
    else:
        with crew(workers) as submit:
            for result in in_order(map(begun, count(), chunks), 2 * workers):
                finish(result)
    if (beyond := record_of(work, split, made)).exists():
        raise changed(beyond)
    return whole


def _convert(
    source: Source,
    converter: Converter,
    work: Path,
    split: str,
    number: int,
    chunk: list[Entry | Rejected],
) -> Tally:
    """Turn a chunk into a shard. Its record is written last: it says that the rest is there."""
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
    points = sum(len(row.points) for row in converted.rows)
    tally = Tally(len(converted.rows), len(rejected), points, counted(converted.bare))
    write_record(record_of(work, split, number), digest_of(chunk), tally, rejected)
    return tally


def _note_duplicates(work: Path, split: str) -> None:
    """Leave out rows whose key an earlier row has, and list them."""
    dropped = drop_duplicates(work, split)
    if dropped:
        path = record_of(work, split, AFTER_ALL)
        write_record(path, "", Tally(rejected=len(dropped)), dropped)


def _move_into_place(work: Path, out: Path, split: str) -> None:
    write_table(work, out, split)
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
