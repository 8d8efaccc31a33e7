"""Any data set to shards: complete or absent, the same however it was interrupted."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from deformlearn.config import ImportConfig
from deformlearn.data import importing
from deformlearn.data.check import check_dataset
from deformlearn.data.chunks import Tally, counted, main_reasons
from deformlearn.data.coco import CocoKeypoints
from deformlearn.data.convert import Converter
from deformlearn.data.duplicates import drop_duplicates
from deformlearn.data.importing import import_source
from deformlearn.data.mpii import Mpii
from deformlearn.data.openpose import OpenPose
from deformlearn.data.shards import read_info, read_people
from deformlearn.data.soundness import Rejected
from deformlearn.data.sources import Entry, Person, Source, SurfacePoints
from deformlearn.data.truth import read_truth
from deformlearn.datasheet import write_datasheet
from deformlearn.errors import InputError
from deformlearn.files import place, write_atomically
from deformlearn.locks import held


@dataclass(frozen=True)
class Planted(Source):
    """People whose every number follows from their own."""

    images: Path
    count: int = 40
    first: int = 0
    stop_at: int | None = None
    """Raise what Ctrl-C raises, when this person is converted."""
    labels: Path | None = None
    """A file that it names."""

    chunk = 7
    has_truth = True
    joints = "h36m17"
    description = "planted people"

    def entries(self) -> Iterator[Entry | Rejected]:
        for number in range(self.first, self.count):
            if number == 11:
                yield Rejected("planted.json annotation 11", "it is the eleventh")
            else:
                yield Entry(f"planted.json annotation {number}", number)

    def people(self, entry: Entry) -> list[Person | Rejected]:
        number = entry.content
        if number == self.stop_at:
            raise KeyboardInterrupt
        if number == 5:
            raise InputError("the fifth is always bad")
        keypoints = np.arange(34.0).reshape(17, 2) + number
        return [
            Person(
                key="same" if number in (20, 30) else f"person-{number}",
                image=self.images / "photo.png",
                box=(2.0, 4.0, 10.0 if number != 6 else 0.0, 20.0),
                keypoints=keypoints,
                keypoint_weights=np.ones(17),
                dense=SurfacePoints(
                    np.full((8, 2), 5.5), np.arange(8), np.full((8, 3), 1 / 3), np.ones(8)
                ),
                joints_mm=np.arange(51.0).reshape(17, 3) * (number + 1),
                subject=f"S{number % 3}",
                action="Walking",
                camera="1",
                frame=number,
            )
        ]


@pytest.fixture
def source(tmp_path) -> Planted:
    y, x = np.mgrid[:48, :64].astype(np.uint8)
    Image.fromarray(np.stack([4 * x, 5 * y, 2 * (x + y)], -1)).save(tmp_path / "photo.png")
    return Planted(tmp_path)


def take(source, out, template, config=None, **options):
    config = config or ImportConfig()
    return import_source(source, out, template, Converter(template, config), config, **options)


def rejects(out, split="train"):
    with open(out / f"rejects-{split}.csv", newline="") as file:
        return [tuple(row) for row in csv.reader(file)]


def shards_of(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def test_good_rows_are_kept_and_every_other_one_is_listed_with_its_reason(
    source, template, tmp_path
):
    result = take(source, tmp_path / "data", template)
    people = read_people(tmp_path / "data", "train", template)
    assert len(people) == result.rows == 36
    assert result.rejected == 4
    table = rejects(tmp_path / "data")
    assert table[0] == ("file", "row", "reason")
    assert ("planted.json", "annotation 5", "the fifth is always bad") in table
    assert ("planted.json", "annotation 11", "it is the eleventh") in table
    assert any("person-6" in row[0] and "no extent" in row[2] for row in table)
    assert any("same" in row[1] and "occurs before" in row[2] for row in table)


def test_of_two_people_with_one_key_the_first_keeps_its_own_labels_and_truth(source, template):
    first, second = (source.people(Entry("", number))[0] for number in (20, 30))
    converted = Converter(template, ImportConfig()).rows([first, second], "h36m17")
    assert [row.key for row in converted.rows] == ["same"]
    np.testing.assert_array_equal(converted.rows[0].keypoints, first.keypoints)
    joints = first.joints_mm - first.joints_mm[0]
    np.testing.assert_array_equal(converted.truths[0].landmarks_mm, joints)
    assert [one.reason for one in converted.rejected] == ["its key occurs before in the data set"]


def test_labels_and_truth_arrive_unchanged(source, template, tmp_path):
    take(source, tmp_path / "data", template)
    people = read_people(tmp_path / "data", "train", template)
    row = people.keys.index("person-8")
    pixels = people.crop[row : row + 1].to_pixels(people.observations.keypoints[row : row + 1])
    np.testing.assert_allclose(pixels[0].numpy(), np.arange(34.0).reshape(17, 2) + 8, atol=1e-4)
    assert people.crop.centre[row].tolist() == [7.0, 14.0]
    assert people.crop.half[row].item() == pytest.approx(11.0)
    truth = read_truth(tmp_path / "data", "train", ["person-8"])
    joints = np.arange(51.0).reshape(17, 3) * 9
    np.testing.assert_allclose(truth.landmarks_mm[0].numpy(), joints - joints[0])
    assert read_info(tmp_path / "data").joints == "h36m17"


def test_several_workers_write_what_one_does(source, template, tmp_path):
    take(source, tmp_path / "one", template)
    take(source, tmp_path / "two", template, workers=2)
    assert shards_of(tmp_path / "one") == shards_of(tmp_path / "two")
    assert rejects(tmp_path / "one") == rejects(tmp_path / "two")


def test_a_stopped_import_leaves_no_data_set_and_goes_on_where_it_was(
    source, template, tmp_path, monkeypatch
):
    out = tmp_path / "data"
    take(source, tmp_path / "whole", template)
    stopped = replace(source, stop_at=25)
    # The recipe names the source; here the same source is stopped from outside.
    monkeypatch.setattr(importing, "_recipe", lambda *_: {"source": "the same"})
    with pytest.raises(KeyboardInterrupt):
        take(stopped, out, template)
    with pytest.raises(InputError, match="not a data set"):
        read_info(out)
    converted = []
    convert = importing._convert
    monkeypatch.setattr(importing, "_convert", lambda *a: (converted.append(a[4]), convert(*a))[1])
    take(source, out, template)
    assert converted == [3, 4, 5]
    assert shards_of(out) == shards_of(tmp_path / "whole")
    assert not (out / ".import-train").exists()


def test_a_second_time_nothing_is_written(source, template, tmp_path):
    first = take(source, tmp_path / "data", template)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    again = take(source, tmp_path / "data", template)
    assert again.already
    assert again == first
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}


def test_another_source_or_other_options_in_the_same_place_are_refused(source, template, tmp_path):
    take(source, tmp_path / "data", template)
    with pytest.raises(InputError, match="another options"):
        take(source, tmp_path / "data", template, ImportConfig(margin=0.5))
    with pytest.raises(InputError, match=r"another source.*delete .* to import again"):
        take(replace(source, count=3), tmp_path / "data", template)
    with pytest.raises(InputError, match="letters, digits"):
        take(source, tmp_path / "data", template, split="../train")


def test_a_file_that_has_changed_is_another_source(source, template, tmp_path):
    source = replace(source, labels=tmp_path / "labels.json")
    source.labels.write_text("[1]")
    take(source, tmp_path / "data", template)
    assert take(source, tmp_path / "data", template).already
    source.labels.write_text("[1, 2]")
    with pytest.raises(InputError, match="another source, or from files that have changed"):
        take(source, tmp_path / "data", template)


def test_the_same_words_in_another_folder_are_another_source(
    source, template, tmp_path, monkeypatch
):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "photo.png").write_bytes((tmp_path / "photo.png").read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    source = replace(source, images=Path())
    take(source, tmp_path / "data", template)
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(InputError, match="another source"):
        take(source, tmp_path / "data", template)


def test_an_unfinished_import_whose_file_has_changed_is_refused(source, template, tmp_path):
    source = replace(source, labels=tmp_path / "labels.json", stop_at=25)
    source.labels.write_text("[1]")
    with pytest.raises(KeyboardInterrupt):
        take(source, tmp_path / "data", template)
    source.labels.write_text("[1, 2]")
    with pytest.raises(InputError, match=r"unfinished import of .* files that have changed"):
        take(source, tmp_path / "data", template)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("change", [{"first": 1}, {"count": 14}])
def test_a_chunk_of_other_entries_is_never_taken_for_one_of_the_source(
    source, template, tmp_path, monkeypatch, change, workers
):
    monkeypatch.setattr(importing, "_recipe", lambda *_: {"source": "the same"})
    with pytest.raises(KeyboardInterrupt):
        take(replace(source, stop_at=25), tmp_path / "data", template)
    with pytest.raises(InputError, match=r"is not what it was .* delete .*\.import-train to begin"):
        take(replace(source, **change), tmp_path / "data", template, workers=workers)


def test_two_processes_do_not_work_in_one_data_set(source, template, tmp_path):
    lock = held(tmp_path / "data")
    with pytest.raises(InputError, match=r"another process is working in .*give another --out"):
        take(source, tmp_path / "data", template)
    lock.release()
    take(source, tmp_path / "data", template)
    assert not (tmp_path / "data" / ".lock").exists()
    held(tmp_path / "data")
    assert take(source, tmp_path / "data", template).already  # which needs no lock


@dataclass(frozen=True)
class Some:
    """Gives dense points to those whose number is in `numbers`."""

    numbers: tuple[int, ...]

    def __call__(self, people: list[Person]) -> list[Person]:
        return [
            person
            if person.frame in self.numbers
            else replace(person, dense=None, notes=("cut", f"/x/{person.key} was not seen"))
            for person in people
        ]


def test_why_people_have_no_dense_points_is_said(source, template, tmp_path):
    config = ImportConfig()
    converter = Converter(template, config, enrich=Some((8, 9)))
    source = replace(source, count=20)
    done = import_source(source, tmp_path / "data", template, converter, config)
    first = "/x/person-0 was not seen"
    assert (done.bare, done.bare_because) == (15, f"15 x … was not seen (the first: {first})")
    again = import_source(source, tmp_path / "data", template, converter, config)
    assert again.bare_because == done.bare_because


def test_like_reasons_of_several_chunks_are_counted_under_the_first():
    first = Tally(bare=counted(["no a/1.png", "plain", "no b/2.png"]))
    second = Tally(bare=counted(["no c/3.png", "plain", "number 4"]))
    words = "3 x no … (the first: no a/1.png); 2 x plain; 1 x number 4"
    assert main_reasons((first + second).bare) == words


def test_points_that_reach_nobody_are_refused(source, template, tmp_path):
    config = ImportConfig()
    converter = Converter(template, config, enrich=Some(()))
    with pytest.raises(InputError, match=r"none of 17 people got a dense point \(17 x … was not"):
        import_source(replace(source, count=20), tmp_path / "data", template, converter, config)
    assert not (tmp_path / "data").exists()


def test_charts_that_cannot_be_read_are_refused_before_anything_is_written(
    source, template, tmp_path
):
    config = ImportConfig()
    converter = Converter(template, config, tmp_path / "UV.mat")
    with pytest.raises(InputError, match=r"cannot read .*UV\.mat"):
        import_source(source, tmp_path / "data", template, converter, config)
    assert not (tmp_path / "data").exists()


def test_names_that_are_no_text_cost_their_people_and_nobody_else(source, template, tmp_path):
    class Named(Planted):
        def entries(self):
            yield Rejected("b\udce9.json annotation 0", "is \ud800 broken")
            yield from super().entries()

        def people(self, entry):
            changed = {7: {"key": "caf\udce9"}, 8: {"image": self.images / "\udce9.png"}}
            return [replace(one, **changed.get(one.frame, {})) for one in super().people(entry)]

    assert take(Named(source.images), tmp_path / "data", template).rows == 34
    table = rejects(tmp_path / "data")
    assert ("b\\udce9.json", "annotation 0", "is \\ud800 broken") in table
    reason = "its name is not UTF-8; rename its file"
    assert [row[0] for row in table if row[2] == reason] == ["caf\\udce9", "person-8"]


def test_no_process_at_all_is_refused(source, template, tmp_path):
    with pytest.raises(InputError, match="at least 1 process, got workers 0"):
        take(source, tmp_path / "data", template, workers=0)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", [CocoKeypoints, Mpii, OpenPose])
def test_people_of_no_key_points_cannot_be_asked_for(kind, tmp_path):
    with pytest.raises(InputError, match="at least 1 key point, got min_keypoints 0"):
        kind(tmp_path, tmp_path, min_keypoints=0)


def test_a_check_prints_brackets_in_the_name_of_a_folder(source, template, tmp_path, capsys):
    out = tmp_path / "sub[red]"
    take(source, out, template)
    assert not check_dataset(out, template, console=Console(width=500))
    assert capsys.readouterr().out.startswith(f"{out}: template")


def test_a_data_set_in_a_store_is_checked_and_drawn(source, template, tmp_path):
    take(source, tmp_path / "data", template, ImportConfig(crops=32))
    store = place("memory://checked/data")
    for path in (path for path in (tmp_path / "data").rglob("*") if path.is_file()):
        write_atomically(store / path.relative_to(tmp_path / "data").as_posix(), path.read_bytes())
    assert not check_dataset(store, template, console=Console(quiet=True))
    page = write_datasheet(store, template, target=tmp_path / "page.html")
    assert "the fifth is always bad" in page.read_text("utf-8")


def test_two_splits_share_a_data_set(source, template, tmp_path):
    take(source, tmp_path / "data", template)
    take(replace(source, count=9), tmp_path / "data", template, split="test")
    assert len(read_people(tmp_path / "data", "test", template)) == 7


def test_a_source_without_a_good_row_is_an_error_that_says_why(source, template, tmp_path):
    class Bad(Planted):
        def entries(self):
            yield from (Rejected(f"a.json annotation {i}", f"broken at {i}") for i in range(9))

    with pytest.raises(
        InputError, match=r"rejected \(9 x broken at … \(the first: broken at 0\)\)"
    ):
        take(Bad(source.images), tmp_path / "data", template)
    assert ("a.json", "annotation 3", "broken at 3") in rejects(tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["rejects-train.csv"]
    with pytest.raises(InputError, match="the source is empty"):
        take(replace(source, count=0), tmp_path / "empty", template)


def test_a_source_that_cannot_be_opened_leaves_nothing(source, template, tmp_path):
    class Foreign(Planted):
        def entries(self):
            raise InputError("a.json is another kind of file")

    with pytest.raises(InputError, match="another kind"):
        take(Foreign(source.images), tmp_path / "data", template)
    assert not (tmp_path / "data").exists()


def test_stored_crops_show_what_the_photo_shows(source, template, tmp_path):
    from deformlearn.data.images import load_images

    take(source, tmp_path / "paths", template)
    take(source, tmp_path / "crops", template, ImportConfig(crops=32))
    (source.images / "photo.png").rename(source.images / "moved.png")
    people = read_people(tmp_path / "crops", "train", template)
    stored = load_images(tmp_path / "crops", "train", people, 32).pixels.float()
    (source.images / "moved.png").rename(source.images / "photo.png")
    people = read_people(tmp_path / "paths", "train", template)
    cut = load_images(tmp_path / "paths", "train", people, 32).pixels.float()
    assert (stored - cut).abs().mean() < 4  # what JPEG costs


def test_a_missing_image_costs_its_people_when_crops_are_stored(source, template, tmp_path):
    (source.images / "photo.png").unlink()
    with pytest.raises(InputError, match="does not exist"):
        take(source, tmp_path / "data", template, ImportConfig(crops=32))


def test_later_rows_with_a_key_seen_before_are_dropped_with_their_truth(
    source, template, tmp_path, monkeypatch
):
    monkeypatch.setattr(importing, "_note_duplicates", lambda *_: None)
    take(source, tmp_path / "data", template)
    dropped = drop_duplicates(tmp_path / "data", "train")
    assert [one.reason for one in dropped] == ["its key occurs before it"]
    people = read_people(tmp_path / "data", "train", template)
    assert people.keys.count("same") == 1
    truth = read_truth(tmp_path / "data", "train")
    assert truth.keys == people.keys
    assert people.observations.keypoints.shape[0] == 36
    # The first of the two stays.
    row = people.keys.index("same")
    pixels = people.crop[row : row + 1].to_pixels(people.observations.keypoints[row : row + 1])
    assert pixels[0, 0, 0].item() == pytest.approx(20, abs=1e-3)
