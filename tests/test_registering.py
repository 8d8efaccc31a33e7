"""Whole splits, block by block: the same result however often it is stopped and whoever computes it."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock

from deformlearn import lifter, registering
from deformlearn.cli import main
from deformlearn.config import PRESETS, LifterConfig, RegistrationConfig
from deformlearn.data.estimates import read_estimates, write_estimates
from deformlearn.data.shards import (
    DatasetInfo,
    Row,
    fingerprint,
    read_people,
    write_info,
    write_rows,
)
from deformlearn.errors import InputError
from deformlearn.files import place
from deformlearn.progress import Watch
from deformlearn.registering import block_size, register_split
from deformlearn.registration import keep_best, register
from deformlearn.templates import save
from tiny_runs import planted_rows

CONFIG = RegistrationConfig(first_iterations=1, iterations=2, batch=4)
PEOPLE = 17
"""Of 19 rows: two are bad. In blocks of 4 the last one has one person."""


def write_set(folder, template, rows):
    """Shards of unequal size; a bad row in the first and the last."""
    write_info(folder, DatasetInfo(template.name, template.fingerprint, "coco17"))
    broken = replace(rows[0], key="broken", points=np.full_like(rows[0].points, np.nan))
    write_rows(folder, "train", 0, [rows[0], broken, *rows[1:6]])
    write_rows(folder, "train", 1, rows[6:7])
    write_rows(folder, "train", 2, [*rows[7:], replace(broken, key="again")])
    return folder


@pytest.fixture(scope="module")
def rows(template, planted):
    return planted_rows(planted(template, PEOPLE, joints="coco17", points=20)[1])


@pytest.fixture
def data(template, rows, tmp_path):
    return write_set(tmp_path / "data", template, rows)


@pytest.fixture(scope="module")
def whole(template, rows, tmp_path_factory):
    """The undisturbed result."""
    folder = tmp_path_factory.mktemp("whole")
    write_set(folder, template, rows)
    out = folder / "estimates.parquet"
    register_split(folder, "train", template, out, CONFIG)
    return out


@pytest.fixture
def stopped(monkeypatch):
    """Registration that fails from the n-th call on."""

    def stop(after, error):
        calls = []

        def failing(*arguments, **options):
            calls.append(1)
            if len(calls) > after:
                raise error
            return register(*arguments, **options)

        monkeypatch.setattr(registering, "register", failing)
        return calls

    return stop


def test_everyone_is_fitted_in_the_order_of_the_split(template, data, tmp_path, capsys):
    out = tmp_path / "out" / "estimates.parquet"
    found = register_split(data, "train", template, out, CONFIG, watch=Watch())
    people = read_people(data, "train", template)
    back = read_estimates(out, template)
    assert back.keys == people.keys
    direct, quality = register(template, people.observations, people.crop, CONFIG)
    torch.testing.assert_close(back.estimate.body.pose, direct.body.pose, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(back.quality.loss, quality.loss, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(back.crop.half, people.crop.half)
    assert found.people == found.fitted == PEOPLE
    assert found.rejected == 2
    assert found.replaced is None
    assert found.flagged == sum(flag != "ok" for flag in back.flags)
    median = back.quality.reprojection_px.nanmedian().item()
    assert found.reprojection_px == pytest.approx(median)
    said = capsys.readouterr().err
    assert said.count("left out") == 2
    assert "point_x is NaN" in said
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_row_group_is_a_block(whole):
    assert pq.read_metadata(whole).num_row_groups == 5


def test_what_was_cut_off_goes_on_to_the_same_bits(template, data, whole, tmp_path, stopped):
    out = tmp_path / "estimates.parquet"
    for after in (2, 0, 1):
        stopped(after, RuntimeError("killed"))
        with pytest.raises(RuntimeError, match="killed"):
            register_split(data, "train", template, out, CONFIG)
        assert not out.exists()
    assert len(list((tmp_path / "estimates.parquet.parts").glob("*.parquet"))) == 3
    calls = stopped(9, RuntimeError())
    found = register_split(data, "train", template, out, CONFIG)
    assert len(calls) == 2
    assert found.fitted == PEOPLE - 12
    assert out.read_bytes() == whole.read_bytes()


def test_what_is_finished_is_not_done_again(template, data, tmp_path, stopped):
    out = tmp_path / "estimates.parquet"
    first = register_split(data, "train", template, out, CONFIG)
    calls = stopped(0, RuntimeError("not again"))
    again = register_split(data, "train", template, out, CONFIG)
    assert not calls
    assert again == replace(first, fitted=0, seconds=again.seconds)
    with pytest.raises(RuntimeError, match="not again"):
        register_split(data, "train", template, out, replace(CONFIG, iterations=7))


def test_of_old_and_new_fits_everyone_keeps_the_better(template, data, whole, tmp_path):
    start = read_estimates(whole, template)
    better = torch.arange(PEOPLE) % 3 == 0
    # Every third person's old fit is said to be perfect, so that nothing can beat it.
    loss = torch.where(better, 0.0, start.quality.loss)
    before = tmp_path / "before.parquet"
    write_estimates(
        before, replace(start, quality=replace(start.quality, loss=loss), flags=()), template
    )
    out, alone = tmp_path / "out.parquet", tmp_path / "alone.parquet"
    found = register_split(
        data, "train", template, out, CONFIG, start=whole, before=before, alone=alone
    )
    old, new = read_estimates(before, template), read_estimates(alone, template)
    expected, quality = keep_best((old.estimate, old.quality), (new.estimate, new.quality))
    back = read_estimates(out, template)
    assert back.keys == old.keys
    for a, b in zip(back.estimate.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert torch.equal(back.quality.loss, quality.loss)
    assert torch.equal(back.estimate.body.pose, expected.body.pose)
    assert found.replaced == pytest.approx((new.quality.loss < loss).float().mean().item())
    assert 0 < found.replaced < 1


def test_a_start_is_gone_on_from(template, data, whole, tmp_path):
    out = tmp_path / "again.parquet"
    register_split(data, "train", template, out, CONFIG, start=whole)
    people = read_people(data, "train", template)
    first = read_estimates(whole, template)
    direct, _ = register(template, people.observations, people.crop, CONFIG, start=first.estimate)
    back = read_estimates(out, template).estimate.body.pose
    torch.testing.assert_close(back, direct.body.pose, atol=1e-3, rtol=1e-3)
    assert (back - first.estimate.body.pose).abs().max() > 1e-2


def test_estimates_of_others_are_no_start(template, data, whole, tmp_path):
    value = read_estimates(whole, template)
    write_estimates(tmp_path / "renamed.parquet", replace(value, keys=value.keys[::-1]), template)
    few = replace(
        value, keys=value.keys[:3], estimate=value.estimate[:3], crop=value.crop[:3],
        quality=value.quality[:3], flags=value.flags[:3],
    )  # fmt: skip
    write_estimates(tmp_path / "few.parquet", few, template)
    for name, message in (("renamed", "'p16' where the data set has 'p00'"), ("few", "3 people")):
        with pytest.raises(InputError, match=message):
            register_split(
                data, "train", template, tmp_path / "out.parquet", CONFIG,
                start=tmp_path / f"{name}.parquet",
            )  # fmt: skip


def test_parts_of_other_work_are_refused(template, data, tmp_path, stopped):
    out = tmp_path / "estimates.parquet"
    stopped(1, RuntimeError("killed"))
    with pytest.raises(RuntimeError):
        register_split(data, "train", template, out, CONFIG)
    poses = torch.randn(20, 17, 2), torch.ones(20, 17)
    made = lifter.train(*poses, "coco17", LifterConfig(width=8, steps=4, batch=4))
    for change, message in (
        ({"config": replace(CONFIG, iterations=7)}, "config.iterations: 2 became 7"),
        ({"lifter": made}, "lifter: None became"),
    ):
        with pytest.raises(InputError, match=message):
            register_split(data, "train", template, out, **{"config": CONFIG, **change})
    extra = write_rows(data, "train", 1, [Row(**{**vars(rows_of_one(data)), "key": "other"})])
    with pytest.raises(InputError, match=f"shards.{extra.name}"):
        register_split(data, "train", template, out, CONFIG)


def rows_of_one(folder):
    """The one row of the second shard, as it might be written again."""
    table = pq.read_table(folder / "observations" / "train-00001.parquet").to_pylist()[0]
    return Row(
        key=table["key"], crop=(200.0, 150.0, 81.0),
        points=np.stack([table["point_x"], table["point_y"]], -1),
        faces=np.array(table["point_face"]), barycentric=np.full((20, 3), 1 / 3),
        point_weights=np.ones(20), keypoints=np.zeros((17, 2)), keypoint_weights=np.zeros(17),
    )  # fmt: skip


@pytest.mark.parametrize("change", ["rewritten", "deleted", "truncated"])
def test_a_shard_that_changes_meanwhile_is_refused_and_the_parts_are_kept(
    template, data, whole, tmp_path, monkeypatch, change
):
    path = data / "observations" / "train-00002.parquet"
    content = path.read_bytes()
    real = registering.read_blocks

    def meddle(*arguments):
        for number, people in enumerate(real(*arguments)):
            yield people
            if number == 0:
                if change == "deleted":
                    path.unlink()
                elif change == "truncated":
                    path.write_bytes(content[:500])
                else:
                    write_rows(data, "train", 2, [rows_of_one(data)])

    monkeypatch.setattr(registering, "read_blocks", meddle)
    out = tmp_path / "estimates.parquet"
    message = "cannot be read any more" if change == "deleted" else "changed since the work began"
    with pytest.raises(InputError, match=f"train-00002.parquet was .*{message}|{message}"):
        register_split(data, "train", template, out, CONFIG)
    assert (tmp_path / "estimates.parquet.parts" / "000000.parquet").exists()
    path.write_bytes(content)
    monkeypatch.setattr(registering, "read_blocks", real)
    found = register_split(data, "train", template, out, CONFIG)
    assert found.fitted < PEOPLE
    assert out.read_bytes() == whole.read_bytes()


def test_people_without_key_points_are_lifted_too(template, rows, tmp_path):
    """A DensePose-only data set: dense points and nothing else."""
    blind = [replace(row, keypoint_weights=np.zeros(17)) for row in rows]
    data = write_set(tmp_path / "blind", template, blind)
    poses = torch.randn(20, 17, 2, generator=torch.Generator().manual_seed(0))
    made = lifter.train(
        poses, torch.ones(20, 17), "h36m17", LifterConfig(width=8, steps=4, batch=4)
    )
    config = replace(CONFIG, depth_weight=100.0)
    fits = []
    for name, given in (("lifted", made), ("flat", None), ("again", made)):
        out = tmp_path / f"{name}.parquet"
        register_split(data, "train", template, out, config, lifter=given)
        fits.append(read_estimates(out, template).estimate.body.pose)
    lifted, flat, again = fits
    assert torch.equal(lifted, again)
    assert lifted.isfinite().all()
    # Each person feels the depths.
    assert ((lifted - flat).flatten(1).norm(dim=-1) > 1e-2).all()


def test_a_full_gpu_halves_the_batch_and_goes_on(
    template, data, whole, tmp_path, monkeypatch, caplog
):
    sizes = []

    def cramped(template, seen, crop, config, **options):
        sizes.append(config.batch)
        if config.batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return register(template, seen, crop, config, **options)

    monkeypatch.setattr(registering, "register", cramped)
    out = tmp_path / "estimates.parquet"
    found = register_split(data, "train", template, out, CONFIG)
    assert found.people == PEOPLE
    ours, undisturbed = (read_estimates(path, template).estimate for path in (out, whole))
    for one, other in zip(ours.tensors(), undisturbed.tensors(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert sizes == [4, 2, 1, 1, 1, 1, 1]  # what was learned holds for the blocks that follow
    assert "out of memory: from now on 2 people at a time (CUDA out of memory)" in caplog.text


def test_not_even_one_person_fits(template, data, tmp_path, stopped):
    stopped(0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(InputError, match="out of memory for one of the people"):
        register_split(data, "train", template, tmp_path / "e.parquet", CONFIG)


def test_a_data_set_in_an_object_store_gives_the_same_bits(template, rows, whole, tmp_path):
    folder = write_set(place("memory://registering/set"), template, rows)
    out = tmp_path / "estimates.parquet"
    register_split(folder, "train", template, out, CONFIG)
    assert out.read_bytes() == whole.read_bytes()
    local = write_set(tmp_path / "set", template, rows)
    assert fingerprint(folder, "train") == fingerprint(local, "train")


def test_a_folder_that_cannot_be_written_is_refused(template, data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write in"):
        register_split(data, "train", template, tmp_path / "file" / "e.parquet", CONFIG)


def test_a_full_disk_leaves_what_was_finished(template, data, whole, tmp_path, monkeypatch):
    out = tmp_path / "estimates.parquet"
    parts = tmp_path / "estimates.parquet.parts"
    flush, done = os.fsync, []

    def full(descriptor):
        done.append(1)
        if len(done) > 3:  # the recipe and two parts
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        register_split(data, "train", template, out, CONFIG)
    names = sorted(path.name for path in parts.iterdir() if path.name != ".lock")
    assert names == ["000000.parquet", "000001.parquet", "recipe.json"]
    monkeypatch.undo()
    assert register_split(data, "train", template, out, CONFIG).fitted == PEOPLE - 8
    assert out.read_bytes() == whole.read_bytes()


def test_a_registration_that_has_finished_nothing_may_become_another(
    template, data, whole, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    out = tmp_path / "estimates.parquet"
    with monkeypatch.context() as at_once:
        at_once.setattr(registering, "_fit_blocks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            register_split(data, "train", template, out, replace(CONFIG, iterations=7))
    assert (tmp_path / "estimates.parquet.parts" / "recipe.json").exists()
    register_split(data, "train", template, out, CONFIG)
    assert out.read_bytes() == whole.read_bytes()


def test_two_at_once_are_refused(template, data, tmp_path):
    parts = tmp_path / "estimates.parquet.parts"
    parts.mkdir()
    with (
        FileLock(parts / ".lock"),
        pytest.raises(InputError, match="another process is working in"),
    ):
        register_split(data, "train", template, tmp_path / "estimates.parquet", CONFIG)


def test_blocks_are_whole_batches_and_have_a_largest_size():
    assert block_size(10, 500) == 500
    assert block_size(64_000, 500) == 1000
    assert block_size(10_000_000, 500) == 8000
    assert block_size(10_000_000, 4096) == 8192
    assert block_size(10_000_000, 100_000) == 100_000


def command(data, out, template, *words):
    """`deformlearn register` as a shell would run it, with steps enough to be interrupted."""
    return [
        "-m", "deformlearn", "register", str(data), "--out", str(out), "--template", str(template),
        "--iterations", "40", "--tolerance", "0", "--batch", "4", "--device", "cpu", *words,
    ]  # fmt: skip


@pytest.fixture
def shell(template, tmp_path):
    """What the commands below share: a template file, and as many threads in every process."""
    save(template, tmp_path / "octahedra.safetensors")
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return tmp_path / "octahedra.safetensors", environment


def test_processes_that_are_killed_or_many_give_the_same_bits(template, data, tmp_path, shell):
    body, environment = shell
    config = replace(PRESETS["laptop"].run.registration, iterations=40, tolerance=0.0, batch=4)
    whole = tmp_path / "whole" / "estimates.parquet"
    register_split(data, "train", template, whole, config)
    call = partial(subprocess.run, capture_output=True, text=True, env=environment)

    out = tmp_path / "killed"
    words = [sys.executable, *command(data, out, body)]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    part = out / "estimates.parquet.parts" / "000001.parquet"
    while not part.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (out / "estimates.parquet").exists()
    done = call([sys.executable, *command(f"file://{data}", out, body)])
    assert done.returncode == 0, done.stderr
    assert f"{PEOPLE} people, 2 rows or shards left out" in done.stdout
    fitted = int(done.stdout.split(" people fitted")[0])
    assert 1 <= fitted <= PEOPLE - 8
    assert (out / "estimates.parquet").read_bytes() == whole.read_bytes()

    out = tmp_path / "two"
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = call([*torchrun, *command(data, out, body)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{PEOPLE} people fitted") == 1
    assert done.stderr.count("left out: ") == 2
    assert (out / "estimates.parquet").read_bytes() == whole.read_bytes()


def test_the_command_says_that_all_is_done(template, data, tmp_path, shell, capsys):
    body, _ = shell
    words = command(data, tmp_path / "out", body, "--iterations", "1")[2:]
    main(words)
    assert f"{PEOPLE} people fitted in" in capsys.readouterr().out
    main(words)
    said = capsys.readouterr().out
    assert "everyone was fitted before" in said
    shown = [line.split()[1:4:2] for line in said.splitlines() if line.startswith("│ p")]
    fits = read_estimates(tmp_path / "out" / "estimates.parquet", template)
    worst = fits.quality.reprojection_px.sort(descending=True)  # all crops are equal
    pairs = zip(worst.indices[:10], worst.values[:10].tolist(), strict=True)
    assert shown == [[fits.keys[row], f"{error:.2f}"] for row, error in pairs]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("telepathy://thoughts", "nothing is known of telepathy://"),
        ("memory://registering/none", "memory://registering/none is not a data set"),
        (__file__, "is a file; give a data set folder"),
    ],
)
def test_a_source_that_is_no_data_set_is_one_line(source, message, tmp_path, shell, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(command(source, tmp_path / "out", shell[0])[2:])
    said = [line for line in capsys.readouterr().err.splitlines() if "deformlearn:" in line]
    assert len(said) == 1
    assert message in said[0]
