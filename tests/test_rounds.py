"""The whole method on a few octahedra: what a run refuses, what it leaves, how it goes on."""

import contextlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from deformlearn import learning, workshop
from deformlearn import lifter as lifting
from deformlearn.data import shards
from deformlearn.data.estimates import read_estimates
from deformlearn.data.shards import read_people, splits
from deformlearn.data.truth import read_truth
from deformlearn.distributed import ALONE, Team
from deformlearn.errors import InputError, NotFiniteError
from deformlearn.estimate import Estimate
from deformlearn.evaluation import score_estimates
from deformlearn.files import place
from deformlearn.image_scores import score_in_image
from deformlearn.lifter import Lifter
from deformlearn.progress import Watch
from deformlearn.registering import register_split
from deformlearn.rounds import _enough_for_all, _open, _train_lifter, deform_and_learn
from deformlearn.rundir import RunFolder
from deformlearn.stepping import Stepper
from deformlearn.workshop import load_split
from kill_anywhere import compare
from tiny_runs import TINY, write_people

QUICK = replace(TINY, regressor=replace(TINY.regressor, epochs=1))


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return write_people(tmp_path_factory.mktemp("people"), train=10, shard=4)


@pytest.fixture(scope="module")
def finished(people, template, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    deform_and_learn(people, out, replace(QUICK, baselines=True), template)
    return out


def stages(out: Path) -> list[tuple[str, int]]:
    records = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(record["stage"], record["round"]) for record in records]


def test_the_rounds_alternate_deform_and_learn(finished):
    assert stages(finished)[:7] == [
        ("lifter", 0), ("references", 0), ("register", 1), ("learn", 1),
        ("register", 2), ("learn", 2), ("refine", 2),
    ]  # fmt: skip
    assert not list(finished.rglob("*.part*")), "nothing temporary stays"
    assert not list(finished.rglob("checkpoints/*"))


def test_a_shard_that_cannot_be_read_for_a_moment_gives_nobody_another_s_body(
    people, template, tmp_path, monkeypatch
):
    """It was left out when the run began, and is there again when people are registered."""
    read, failed = shards.read_table, []

    def failing_once(path, columns):
        if path.name == "train-00000.parquet" and "point_x" in columns and not failed:
            failed.append(path)
            raise InputError(f"cannot read {path}: Input/output error")
        return read(path, columns)

    out = tmp_path / "run"
    with monkeypatch.context() as once:
        once.setattr(shards, "read_table", failing_once)
        with pytest.raises(InputError, match="estimates of 10 people, which are not the 6 that"):
            deform_and_learn(people, out, QUICK, template)
    assert failed
    deform_and_learn(people, out, QUICK, template)
    assert stages(out)[-1] == ("refine", 2)


@pytest.mark.parametrize("last", [1, 2, 3, 5])
def test_a_run_cut_off_after_any_stage_ends_the_same(people, template, finished, tmp_path, last):
    """The stage after the last record has done its work, but for the record: it is done again."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    lines = (out / "metrics.jsonl").read_text().splitlines()[: last + 1]
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    deform_and_learn(people, out, replace(QUICK, baselines=True), template)
    assert compare(finished, out) == []


def test_a_run_killed_in_a_long_epoch_goes_on_within_it_and_ends_the_same(
    people, template, tmp_path, monkeypatch
):
    config = replace(QUICK, rounds=1, regressor=replace(QUICK.regressor, batch=2, epochs=2))
    monkeypatch.setattr(learning, "_LEG", 4)
    deform_and_learn(people, tmp_path / "whole", config, template)

    monkeypatch.setattr(workshop, "_BETWEEN_CHECKPOINTS", 0.0)
    step, steps = Stepper.step, []

    def killed(stepper, *batch):
        steps.append(stepper.network)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(stepper, *batch)

    out = tmp_path / "run"
    with monkeypatch.context() as once:
        once.setattr(Stepper, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            deform_and_learn(people, out, config, template)
    with RunFolder(out) as folder:
        kept = folder.load_checkpoint("learn", 1)
    assert (kept["epoch"], kept["step"], kept["history"]) == (0, 2, [])
    steps.clear()
    with monkeypatch.context() as again:
        again.setattr(Stepper, "step", lambda *given: steps.append(1) or step(*given))
        deform_and_learn(people, out, config, template)
    assert len(steps) == 2 * 5 - 2
    assert compare(tmp_path / "whole", out) == []


def test_within_an_epoch_a_checkpoint_is_written_now_and_then(
    people, template, tmp_path, monkeypatch
):
    config = replace(QUICK, rounds=1, regressor=replace(QUICK.regressor, batch=2, epochs=2))
    monkeypatch.setattr(learning, "_LEG", 2)
    written = []

    def save(folder, stage, round_, state):
        written.append((stage, state.get("epoch"), state.get("step")))

    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    deform_and_learn(people, tmp_path / "run", config, template)
    assert [one for one in written if one[0] == "learn"] == [("learn", 1, 0), ("learn", 2, 0)]


def test_a_finished_run_does_nothing_again(people, template, finished, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(finished, out)

    def never(*_, **__):
        raise AssertionError("it was done already")

    for name in ("register_split", "learn", "predict_split"):
        monkeypatch.setattr(f"deformlearn.rounds.{name}", never)
    monkeypatch.setattr("deformlearn.comparisons.register_people", never)
    monkeypatch.setattr("deformlearn.comparisons.learn", never)
    deform_and_learn(people, out, replace(QUICK, baselines=True), template)


def test_a_truth_without_the_body_s_own_joints_is_still_what_full_supervision_learns(
    template, finished, tmp_path
):
    """As Human3.6M's, which has no collars and no hands."""
    out = tmp_path / "run"
    seventeen = write_people(tmp_path / "people", train=10, shard=4, known="h36m17")
    deform_and_learn(seventeen, out, replace(QUICK, baselines=True), template)
    assert stages(out) == stages(finished)


def test_a_truth_that_cannot_be_scored_stops_no_training(template, tmp_path):
    """As 3DPW's, which has no top of the head."""
    out = tmp_path / "run"
    headless = write_people(tmp_path / "people", train=10, shard=4, known="smpl24")
    said = io.StringIO()
    watch = Watch(console=Console(file=said, width=300))
    records = deform_and_learn(headless, out, replace(QUICK, baselines=True), template, watch=watch)
    assert "test: no errors in mm, since the truth has no head_top" in said.getvalue()
    assert records[-1]["stage"].startswith("no iteration")
    assert all(record.get("scores") is None for record in records)


def test_comparisons_are_asked_for_later_without_doing_the_rounds_again(
    people, template, finished, tmp_path
):
    out = tmp_path / "run"
    deform_and_learn(people, out, QUICK, template)
    assert ("no iteration", 0) not in stages(out)
    deform_and_learn(people, out, replace(QUICK, baselines=True), template)
    assert compare(finished, out) == []


def test_people_in_memory_are_registered_as_those_on_disk_are(people, template, finished):
    """A control fits in memory what the rounds fit block by block: from the same start, the same fits.

    Other people share a batch, so sums are taken in another order: the same within rounding.
    """
    first = finished / "round-1" / "estimates.parquet"
    out = finished.parent / "again.parquet"
    register_split(
        people, "train", template, out, QUICK.registration,
        lifter=lifting.load_lifter(finished / "lifter.safetensors"), start=first, before=first,
    )  # fmt: skip
    split = read_people(people, "train", template)
    scores = score_estimates(
        template,
        read_estimates(out, template).estimate,
        read_truth(people, "train", split.keys),
        split.actions,
    )
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    control = next(one for one in records if one["stage"] == "control: own fit continued")
    for name in ("raw", "bone_sum", "true_size", "aligned"):
        assert control["scores"][name] == pytest.approx(scores.record()[name], rel=1e-5)


@pytest.mark.parametrize(
    ("stage", "round_", "file", "split"),
    [
        ("register", 1, "round-1/estimates.parquet", "train"),
        ("learn", 2, "round-2/predictions-test.parquet", "test"),
        ("refine", 2, "round-2/refined-test.parquet", "test"),
    ],
)
def test_what_is_measured_in_the_image_is_that_of_what_was_written(
    people, template, finished, stage, round_, file, split
):
    seen = read_people(people, split, template).observations
    wanted = score_in_image(template, read_estimates(finished / file, template).estimate, seen)
    measured = RunFolder(finished).record(stage, round_)["image"]
    assert measured == pytest.approx(wanted.record(), rel=1e-5)
    assert measured["people"] == len(seen)


def test_without_truth_a_stage_says_how_far_bodies_are_in_the_image(people, template, tmp_path):
    data, said = tmp_path / "data", io.StringIO()
    shutil.copytree(people, data, ignore=shutil.ignore_patterns("truth"))
    once = replace(QUICK, rounds=1)
    watch = Watch(console=Console(file=said, width=300))
    deform_and_learn(data, tmp_path / "run", once, template, watch=watch)
    measured = RunFolder(tmp_path / "run").record("learn", 1)["image"]["keypoints"]
    assert f"regressor (test): key points {measured:.1f} % of the crop's side" in said.getvalue()


@pytest.mark.parametrize("change", ["gone", "shorter"])
def test_a_shard_that_changes_while_a_run_is_off_is_named(people, template, tmp_path, change):
    data = tmp_path / "data"
    shutil.copytree(people, data)
    out = tmp_path / "run"
    deform_and_learn(data, out, replace(QUICK, rounds=1), template)
    shard = data / "observations" / "train-00001.parquet"
    if change == "gone":
        shard.unlink()
    else:
        shutil.copy(data / "observations" / "train-00002.parquet", shard)
    message = "gone" if change == "gone" else "4 rows became 2"
    with pytest.raises(InputError, match=rf"observations/train-00001.parquet .*{message}.* since"):
        deform_and_learn(data, out, replace(QUICK, rounds=1), template)


def test_a_shard_that_changes_between_two_stages_is_named(people, template, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(people, data)

    def learn(*_, **__):
        (data / "truth" / "test-00001.parquet").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("deformlearn.rounds.learn", learn)
    with pytest.raises(KeyboardInterrupt):
        deform_and_learn(data, tmp_path / "run", QUICK, template)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"truth/test-00001.parquet \(1 rows\) has gone since"):
        deform_and_learn(data, tmp_path / "run", QUICK, template)


def test_a_run_needs_no_test_split(people, template, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(people, data, ignore=shutil.ignore_patterns("test-*"))
    assert splits(data) == ["train"]
    out = tmp_path / "run"
    deform_and_learn(data, out, replace(QUICK, rounds=1, baselines=True), template)
    assert stages(out) == [
        ("lifter", 0), ("register", 1), ("learn", 1),
        ("control: own fit continued", 0), ("control: second start", 0),
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_anything_is_read_or_begun(
    people, template, tmp_path, monkeypatch
):
    monkeypatch.setattr(shards, "read_table", lambda *_: pytest.fail("it was read"))
    with pytest.raises(InputError, match="sees no CUDA device"):
        deform_and_learn(people, tmp_path / "run", replace(QUICK, device="cuda"), template)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("test_resnt", "close are test_resnet"), ("test_vit", "stride 4, which the 2D")],
)
def test_a_backbone_that_cannot_be_is_refused_before_anything_is_read_or_begun(
    people, template, tmp_path, monkeypatch, name, said
):
    monkeypatch.setattr(shards, "read_table", lambda *_: pytest.fail("it was read"))
    config = replace(QUICK, regressor=replace(QUICK.regressor, backbone=name))
    with pytest.raises(InputError, match=said):
        deform_and_learn(people, tmp_path / "run", config, template)
    assert not (tmp_path / "run").exists()


def test_how_many_people_the_lifter_can_learn_from_is_said(template, tmp_path):
    data = write_people(tmp_path / "people", train=10, half_poses=7)
    said = io.StringIO()
    watch = Watch(console=Console(file=said, width=300))
    with RunFolder(tmp_path / "run", watch=watch) as folder:
        shop = _open(data, folder, QUICK, template, None, watch)
        assert _train_lifter(shop, None).joints == "skeleton25"
    assert "the lifter learns from the 3 of 10 people who have whole 2D poses" in said.getvalue()


def test_more_processes_than_there_is_work_for_are_refused(people, template):
    split = load_split(people, "train", template, 32, 1)
    _enough_for_all(Team(0, 4), QUICK, split)
    _enough_for_all(ALONE, replace(QUICK, regressor=replace(QUICK.regressor, batch=2)), split)
    for batch, most in ((8, 4), (99, 5)):
        config = replace(QUICK, regressor=replace(QUICK.regressor, batch=batch))
        message = f"6 processes are too many for 10 training people .*start at most {most}$"
        with pytest.raises(InputError, match=message):
            _enough_for_all(Team(0, 6), config, split)
    one = replace(split.images, pixels=split.images.pixels[:1], rows=split.readable[:1])
    alone = replace(split, images=one)
    with pytest.raises(InputError, match=r"has one person .*a network needs at least 2"):
        _enough_for_all(ALONE, QUICK, alone)


class Told(Team):
    """A process of two that hears nothing bad of the other."""

    def tell(self, value):
        return value

    def gather(self, value):
        return [value, value]


def test_of_many_pictures_the_first_process_decodes_all_and_the_others_map_them(
    people, template, tmp_path, monkeypatch
):
    monkeypatch.setattr("deformlearn.workshop._EACH_ITS_OWN", 0)
    alone = load_split(people, "train", template, 32, 1)
    first = load_split(people, "train", template, 32, 1, cache=tmp_path, team=Told(0, 2))

    def never(*_):
        raise AssertionError("it was decoded already")

    monkeypatch.setattr("deformlearn.data.images.decode_image", never)
    second = load_split(people, "train", template, 32, 1, cache=tmp_path, team=Told(1, 2))
    for split in (first, second):
        assert torch.equal(split.images.pixels, alone.images.pixels)
        assert split.people.keys == alone.people.keys
    assert list(tmp_path.glob("*.pixels"))


def test_where_every_picture_can_be_read_nobody_s_labels_are_held_twice(people, template, tmp_path):
    split = load_split(people, "train", template, 32, 1)
    for readable in (split.images.rows, split.images.rows[1:]):
        images = replace(split.images, pixels=split.images.pixels[readable], rows=readable)
        shop = workshop.Workshop(
            people, RunFolder(tmp_path), QUICK, template, torch.device("cpu"), Watch(quiet=True),
            replace(split, images=images), None,
        )  # fmt: skip
        rest = Estimate.rest(template, len(split.people))
        taught, seen = workshop.training_set(shop, rest).observations, split.people.observations
        shared = taught.points.data_ptr() == seen.points.data_ptr()
        assert shared == (len(readable) == len(split.people))
        assert torch.equal(taught.points, seen.points[readable])


class ByItself(Team):
    """A process of several that hears nothing of the others."""

    def gather(self, value):
        return [value]


@pytest.mark.parametrize(("rank", "own"), [(0, 4), (2, 2)])
def test_progress_of_shared_fits_is_that_of_this_process_s_people(
    people, template, tmp_path, rank, own
):
    told = []

    class Heard(Watch):
        @contextlib.contextmanager
        def stage(self, text, total):
            yield lambda done, _=None: told.append((done, total))

    split = load_split(people, "train", template, 32, 1)
    shop = workshop.Workshop(
        people, RunFolder(tmp_path, team=ByItself(rank, 3)), QUICK, template,
        torch.device("cpu"), Heard(quiet=True), split, None,
    )  # fmt: skip
    seen = split.people.observations
    with contextlib.suppress(IndexError):  # the others' people are not there
        workshop.register_people(shop, seen, QUICK.registration, stage="fit")
    assert told == [(own, own)]


def test_a_data_set_in_an_object_store_gives_the_same_run(people, template, finished, tmp_path):
    store = place("memory://people")
    for path in (path for path in people.rglob("*") if path.is_file()):
        target = store / str(path.relative_to(people))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    out = tmp_path / "run"
    deform_and_learn(store, out, replace(QUICK, baselines=True), template)
    assert compare(finished, out) == []
    assert json.loads((out / "config.json").read_text())["data"]["path"] == "memory://people"


def lifter_file(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    lifting.save_lifter(Lifter("skeleton25", 8), path)
    return path


def test_people_without_key_points_need_a_lifter_and_go_on_with_the_one_they_began_with(
    template, tmp_path
):
    """DensePose alone: nothing to train a lifter on, but one from elsewhere lifts their own joints."""
    data = write_people(tmp_path / "data", train=10, keypoints_seen=False)
    out, config = tmp_path / "run", replace(QUICK, rounds=1)
    with pytest.raises(InputError, match=r"0 of 10 people have them.*--lifter FILE"):
        deform_and_learn(data, out, config, template)
    one, other = (lifter_file(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    records = deform_and_learn(data, out, config, template, lifter=one)
    assert (out / "lifter.safetensors").read_bytes() == one.read_bytes()
    references = next(record for record in records if record["stage"] == "references")
    assert "lifter_only" not in references, "nobody has key points to be lifted"
    assert deform_and_learn(data, out, config, template, lifter=one) == records
    for different in (other, None):
        with pytest.raises(InputError, match=r"another configuration \(data.lifter"):
            deform_and_learn(data, out, config, template, lifter=different)


def test_what_is_no_lifter_is_refused_before_the_run_begins(people, template, tmp_path):
    (tmp_path / "text.safetensors").write_text("no lifter")
    with pytest.raises(InputError, match="cannot read a lifter"):
        deform_and_learn(
            people, tmp_path / "run", QUICK, template, lifter=tmp_path / "text.safetensors"
        )
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_names_the_people_and_the_last_good_checkpoint(
    people, template, tmp_path, monkeypatch
):
    epochs = []

    def check(stepper, epoch, steps, last):
        epochs.append(epoch)
        if epoch == 1:
            raise NotFiniteError("the loss is not finite in step 1", [3, 0])

    monkeypatch.setattr("deformlearn.stepping.Stepper.check", check)
    out, config = tmp_path / "run", replace(QUICK, regressor=replace(TINY.regressor, epochs=3))
    with pytest.raises(InputError) as caught:
        deform_and_learn(people, out, config, template)
    kept = out / "checkpoints" / "learn-1.pt"
    assert str(caught.value) == (
        f"the loss is not finite in step 1; these are train-003, train-000; "
        f"the last good checkpoint is {kept}"
    )
    assert kept.exists()
    assert set(epochs) == {0, 1}


def test_a_pose_that_is_not_a_number_stops_the_lifter_and_names_the_person(
    people, template, tmp_path, monkeypatch
):
    """No reader lets one in: it is planted in what was read."""

    def spoiled(*arguments, **options):
        split = load_split(*arguments, **options)
        seen = split.people.observations
        keypoints = seen.keypoints.clone()
        keypoints[3, 5] = torch.nan
        observations = replace(seen, keypoints=keypoints)
        return replace(split, people=replace(split.people, observations=observations))

    monkeypatch.setattr("deformlearn.rounds.load_split", spoiled)
    out = tmp_path / "run"
    with pytest.raises(
        InputError,
        match=r"lifter's .*step \d of 30, .* people 3: .*; these are train-003; no checkpoint",
    ):
        deform_and_learn(people, out, QUICK, template)
    assert not (out / "lifter.safetensors").exists()
    assert not list(out.glob("checkpoints/*"))


def test_the_last_good_state_of_a_lifter_is_kept_and_named(people, template, tmp_path, monkeypatch):
    monkeypatch.setattr("deformlearn.lifter.CHUNK", 2)
    step = lifting._step

    def diverging(training, *arguments):
        rows, judged = step(training, *arguments)
        return rows, judged * torch.nan if training.step == 20 else judged

    monkeypatch.setattr("deformlearn.lifter._step", diverging)
    out = tmp_path / "run"
    kept = out / "checkpoints" / "lifter-0.pt"
    with pytest.raises(InputError, match=f"in step 20 of 30.*the last good checkpoint is {kept}"):
        deform_and_learn(people, out, QUICK, template)
    monkeypatch.undo()
    state = torch.load(io.BytesIO(kept.read_bytes()), weights_only=True)
    assert state["step"] == 16


def test_a_head_that_is_not_finite_names_the_people_and_the_last_good_checkpoint(
    people, template, tmp_path, monkeypatch
):
    def train_head(*_, **__):
        raise NotFiniteError("the loss of the head is not finite", [4])

    monkeypatch.setattr("deformlearn.workshop.train_head", train_head)
    out = tmp_path / "run"
    kept = out / "checkpoints" / "learn-1.pt"
    message = f"of the head is not finite; these are train-004; the last good checkpoint is {kept}$"
    with pytest.raises(InputError, match=message):
        deform_and_learn(people, out, QUICK, template)
    assert kept.exists()
    assert not (out / "round-1" / "network.safetensors").exists()


def test_comparisons_on_a_full_gpu_take_fewer_people_at_a_time(
    people, template, finished, tmp_path, monkeypatch, caplog
):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    lines = (out / "metrics.jsonl").read_text().splitlines()[:7]
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    shutil.rmtree(out / "full 3D supervision")
    tried = []

    def cramped(name):
        whole = getattr(workshop, name)

        def small(template, seen, crop, config, *arguments, **options):
            tried.append((name, config.batch))
            if config.batch > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(template, seen, crop, config, *arguments, **options)

        monkeypatch.setattr(workshop, name, small)

    cramped("with_own_joints")
    cramped("register")
    deform_and_learn(people, out, replace(QUICK, baselines=True), template)
    assert tried[:2] == [("with_own_joints", 4), ("with_own_joints", 2)]
    assert ("register", 4) in tried
    assert "out of memory: from now on 2 people at a time (CUDA out of memory)" in caplog.text
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (out, finished)
    )
    assert [one["stage"] for one in ours] == [one["stage"] for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if one["stage"].startswith("control"):
            for name in ("raw", "bone_sum", "true_size", "aligned"):
                assert one["scores"][name] == pytest.approx(other["scores"][name], rel=1e-3)


def test_a_person_who_does_not_fit_alone_ends_a_comparison(
    people, template, finished, tmp_path, monkeypatch
):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    lines = (out / "metrics.jsonl").read_text().splitlines()[:7]
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("deformlearn.workshop.register", full)
    with pytest.raises(InputError, match="out of memory for one of the people"):
        deform_and_learn(people, out, replace(QUICK, baselines=True), template)


def test_a_profile_is_told_and_changes_nothing(people, template, finished, tmp_path):
    said = io.StringIO()
    watch = Watch(console=Console(file=said, width=400))
    out, config = tmp_path / "run", replace(QUICK, baselines=True)
    deform_and_learn(people, out, config, template, profile=True, watch=watch)
    assert "training: " in said.getvalue()
    assert "prediction: " in said.getvalue()
    assert compare(finished, out) == []
