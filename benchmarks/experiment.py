"""The paper's experiment on synthetic people, around `deformlearn run`: mix data sets, collect results.

python benchmarks/experiment.py mix OUT WILD LAB     one data set of two or more
python benchmarks/experiment.py collect STATE OUT    what benchmarks/gpu.sh did
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deformlearn.data.shards import read_info, write_info
from deformlearn.errors import InputError
from deformlearn.report import millimetres, results_table, write_figure_curve
from deformlearn.rundir import RunFolder, read_config
from gather import gather
from table import HEADINGS, Measured, cells, markdown_table, peers

QUALITIES = {
    "exact": "exact correspondences (the paper: MoSh)",
    "predicted": "predicted correspondences (the paper: DensePose)",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    mixing = commands.add_parser("mix")
    mixing.add_argument("out", type=Path)
    mixing.add_argument("sources", type=Path, nargs="+")
    collecting = commands.add_parser("collect")
    collecting.add_argument("state", type=Path)
    collecting.add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "mix":
        mix(options.out, options.sources)
    else:
        collect(options.state, options.out)


def mix(out: Path, sources: list[Path]) -> None:
    """One data set of several of the same kind; a person's key begins with the folder's name."""
    infos = [read_info(source) for source in sources]
    first = infos[0]
    if any(replace(info, description=first.description) != first for info in infos):
        raise InputError(f"data sets of different templates or joints cannot be mixed: {sources}")
    shutil.rmtree(out, ignore_errors=True)
    for kind in ("observations", "truth"):
        (out / kind).mkdir(parents=True)
        numbers: dict[str, int] = {}
        for source in sources:
            for path in sorted((source / kind).glob("*.parquet")):
                split = path.stem.rpartition("-")[0]
                number = numbers[split] = numbers.get(split, -1) + 1
                table = pq.read_table(path)
                keys = pa.array([f"{source.name}-{key}" for key in table["key"].to_pylist()])
                table = table.set_column(table.schema.get_field_index("key"), "key", keys)
                pq.write_table(table, out / kind / f"{split}-{number:05d}.parquet")
    write_info(out, replace(first, description=" + ".join(info.description for info in infos)))


def collect(state: Path, out: Path) -> None:
    """What is worth keeping of a state folder, finished or not."""
    out.mkdir(parents=True, exist_ok=True)
    measured = gather(state / "results", out)
    kept: dict[str, Any] = {}
    pages = []
    for quality, title in QUALITIES.items():
        run = state / f"run-{quality}"
        if not (run / "metrics.jsonl").exists():
            continue
        records = RunFolder(run).records()
        kept[quality] = {
            "config": json.loads((run / "config.json").read_text()),
            "versions": json.loads((run / "versions.json").read_text()),
            "records": [_short(record) for record in records],
        }
        pages += [
            f"## {title}\n",
            _about(run, records),
            "",
            _errors(records),
            "",
            _fig2(records),
            "",
        ]
        try:
            write_figure_curve(out / f"fig2-{quality}.png", run)
            pages.append(f"![Errors over the rounds, {quality}](fig2-{quality}.png)\n")
        except InputError as error:
            pages.append(f"(no figure: {error})\n")
        pages += [_times(records), ""]
    done = {path.name: path.read_text().strip() for path in sorted((state / "done").glob("*"))}
    kept["done"] = done
    (out / "experiment.json").write_text(json.dumps(kept, indent=1) + "\n")
    pages += _benchmarks(measured, state / "results")
    pages.append(
        f"Steps done: {', '.join(n for n, failure in done.items() if not failure) or 'none'}."
    )
    pages += [f"- {failure}" for failure in done.values() if failure]
    (out / "results.md").write_text("\n".join(pages) + "\n")
    print("\n".join(pages))


def _benchmarks(measured: dict[str, dict[str, Any]], results: Path) -> list[str]:
    """What was measured beside goals and peers, and what the machine could do."""
    if not measured:
        return []
    import roofline  # here, for it imports what takes seconds

    names = {field.name for field in fields(Measured)}
    rows = [
        Measured(**{name: value for name, value in row.items() if name in names})
        for result in measured.values()
        for row in result["measured"]
    ]
    # Nothing was accepted before, on a machine that is seen for the first time.
    kept = [column for column, name in enumerate(HEADINGS) if name not in ("baseline", "change")]
    lines = [[cells(row, {})[column] for column in kept] for row in rows]
    about = "; ".join(
        dict.fromkeys(f"{x['kind']}, commit {x['commit']}" for x in measured.values())
    )
    failed = [
        f"- failed: {group}: {why}"
        for result in measured.values()
        for group, why in result["failed"].items()
    ]
    table = markdown_table([HEADINGS[column] for column in kept], lines)
    page = ["## Benchmarks\n", f"{about}\n", table, "", *peers(rows), *failed, ""]
    with contextlib.suppress(SystemExit):  # the machine's limits and registration come first
        page += ["## The limits of the machine\n", roofline.tables(results), ""]
    return page


def _about(run: Path, records: list[dict[str, Any]]) -> str:
    """On what, with which versions and over how many people: what a number means nothing without."""
    versions = json.loads((run / "versions.json").read_text())
    machine = versions.get("gpu") or versions.get("machine", "unknown machine")
    people = {
        what: record["scores"]["people"]
        for record in records
        for stage, what in (("register", "registered"), ("learn", "tested"))
        if record["stage"] == stage and record.get("scores")
    }
    counted = ", ".join(f"{count:,} people {what}" for what, count in people.items())
    rounds = read_config(run)["config"]["rounds"]
    return f"{machine}, torch {versions.get('torch', 'unknown')}; {rounds} rounds; {counted}."


def _short(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the errors by action and the losses of every epoch but the last."""
    short = dict(record)
    for name, value in record.items():
        if isinstance(value, dict):
            short[name] = {key: number for key, number in value.items() if key != "by_action"}
    if record.get("losses"):
        short["losses"] = record["losses"][-1:]
    return short


def _errors(records: list[dict[str, Any]]) -> str:
    """Our Table 1, and the paper's beside it (other data: not comparable)."""
    rows = []
    for row in results_table(records):
        errors = [millimetres(error) for error in row.errors]
        printed = "" if row.printed is None else f"{row.printed:g}"
        rows.append([row.name, row.split, *errors, printed])
    headings = ["MPJPE, mm", "split", "raw", "bone-sum", "true-size", "PA", "PVE", "paper prints"]
    return markdown_table(headings, rows)


PAPER_FIG2 = {
    "registration (train), round 1": "about 110",
    "regressor (test), round 1": "145",
    "regressor (test), last round": "96.99",
}
"""What can be read off the paper's Fig. 2 (MoSh correspondences, Human3.6M) and its Table 1."""


def _fig2(records: list[dict[str, Any]]) -> str:
    """Our Fig. 2 as numbers: raw error by round, beside what the paper's shows."""
    by_stage: dict[str, dict[int, float]] = {"register": {}, "learn": {}}
    for record in records:
        if record["stage"] in by_stage and record.get("scores"):
            by_stage[record["stage"]][record["round"]] = record["scores"]["raw"]
    rounds = sorted(set().union(*by_stage.values()))
    names = {"register": "registration (train)", "learn": "regressor (test)"}
    rows = [
        [names[stage], *(millimetres(errors.get(number)) for number in rounds)]
        for stage, errors in by_stage.items()
    ]
    table = markdown_table(["raw MPJPE, mm", *(f"round {number}" for number in rounds)], rows)
    paper = "; ".join(f"{what} {mm}" for what, mm in PAPER_FIG2.items())
    return (
        f"{table}\n\nThe paper's Fig. 2 (Human3.6M, MoSh correspondences; other data): {paper} mm."
    )


def _times(records: list[dict[str, Any]]) -> str:
    """Seconds of each stage that says them."""
    rows = [
        [f"{record['stage']} {record['round'] or ''}".strip(), f"{record['seconds']:.0f}"]
        for record in records
        if "seconds" in record
    ]
    return markdown_table(["stage", "s"], rows)


if __name__ == "__main__":
    main()
