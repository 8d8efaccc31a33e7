import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from conftest import UNKNOWN_TEXTURE
from deformlearn.camera import Crop
from deformlearn.data import images
from deformlearn.data.images import decode_image, load_images, open_image, stream_images, to_pixels
from deformlearn.data.shards import DatasetInfo, Row, read_people, write_info, write_rows
from deformlearn.errors import InputError
from disks import spoil_column


def encoded(pixels, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def plain(colour, width=20, height=20):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def row(key, image=None, path="", crop=(10.0, 10.0, 10.0)):
    return Row(
        key, crop, np.zeros((1, 2)), np.zeros(1, int), np.ones((1, 3)) / 3, np.ones(1),
        np.zeros((24, 2)), np.ones(24), image=image, image_path=path,
    )  # fmt: skip


def write(folder, rows):
    write_info(folder, DatasetInfo("octahedra", "0", "smpl24"))
    write_rows(folder, "train", 0, rows)
    return read_people(folder, "train")


def square(x, y, half):
    return Crop(torch.tensor([float(x), float(y)]), torch.tensor(float(half)))


def test_stored_crops_and_whole_images_are_read_in_order(tmp_path):
    picture = plain(0, 40, 20)
    picture[:, 20:] = (0, 0, 200)
    Image.fromarray(picture).save(tmp_path / "whole.png")
    rows = [
        row("a", encoded(plain((200, 0, 0)))),
        row("b", path="whole.png", crop=(30.0, 10.0, 10.0)),
    ]
    people = write(tmp_path, rows)
    told = []
    found = load_images(tmp_path, "train", people, 8, workers=2, progress=told.append)
    assert told == [2]
    assert found.pixels.shape == (2, 3, 8, 8)
    assert found.pixels[:, :, 4, 4].tolist() == [[200, 0, 0], [0, 0, 200]]
    assert found.rows.tolist() == [0, 1]
    assert found.unreadable == ()


def test_an_unreadable_image_costs_its_row_and_is_listed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(noise, "JPEG")
    rows = [
        row("short", whole[: len(whole) // 2]),
        row("good", whole),
        row("text", b"not an image"),
        row("gone", path="gone.png"),
        row("nowhere", path="wide.png", crop=(0.0, 0.0, 1e6)),
    ]
    Image.fromarray(noise).save(tmp_path / "wide.png")
    people = write(tmp_path, rows)
    found = load_images(tmp_path, "train", people, 8)
    assert found.rows.tolist() == [1]
    assert len(found.pixels) == 1
    assert [bad.key for bad in found.unreadable] == ["short", "text", "gone", "nowhere"]
    assert "truncated" in found.unreadable[0].reason
    assert "does not exist" in found.unreadable[2].reason
    assert "cannot be cut" in found.unreadable[3].reason


@pytest.mark.parametrize("at_once", [1, 2, 1024])
def test_images_come_some_at_a_time_and_the_unreadable_ones_last(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(images, "_IN_FLIGHT", at_once)
    stored = [encoded(plain(1)), b"not an image", encoded(plain(2)), encoded(plain(3)), b"nor this"]
    people = write(tmp_path, [row(f"p{i}", image) for i, image in enumerate(stored)])
    *parts, last = stream_images(tmp_path, "train", people, 8)
    assert len(parts) == (1 if at_once > 5 else 2 if at_once == 2 else 3)
    assert torch.cat([part.rows for part in parts]).tolist() == [0, 2, 3]
    pixels = torch.cat([part.pixels for part in parts])
    assert torch.equal(pixels, load_images(tmp_path, "train", people, 8).pixels)
    assert (len(last.pixels), len(last.rows)) == (0, 0)
    assert [bad.key for bad in last.unreadable] == ["p1", "p4"]


def test_images_of_rejected_people_are_left_out(tmp_path):
    rows = [
        row("unsound", encoded(plain(1)), crop=(0.0, 0.0, float("nan"))),
        row("sound", encoded(plain(2))),
    ]
    people = write(tmp_path, rows)
    found = load_images(tmp_path, "train", people, 8)
    assert found.pixels.unique().tolist() == [2]
    assert found.rows.tolist() == [0]


def test_a_split_without_a_readable_image_is_refused(tmp_path):
    people = write(tmp_path, [row("text", b"not an image")])
    with pytest.raises(InputError, match="no readable image in the split 'train'; text"):
        load_images(tmp_path, "train", people, 8)


def test_a_crop_is_cut_at_fractions_of_a_pixel():
    columns = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None], 20, 0)
    image = Image.fromarray(np.repeat(columns[..., None], 3, -1))
    cut = to_pixels(image, 4, square(10, 10, 2))
    assert cut[0, 0].tolist() == [80, 90, 100, 110]
    moved = to_pixels(image, 4, square(10.5, 10, 2))
    assert moved[0, 0].tolist() == [85, 95, 105, 115]


def test_beyond_the_image_a_crop_is_black():
    cut = to_pixels(Image.fromarray(plain(255)), 8, square(20, 20, 20))
    assert cut[:, :3, :3].min() == 255
    assert cut[:, 5:].max() == 0
    assert cut[:, :, 5:].max() == 0


def test_shrinking_does_not_alias():
    stripes = plain(0, 64, 64)
    stripes[:, ::2] = 255
    small = decode_image(encoded(stripes), 8)
    assert (small.float() - 127.5).abs().max() < 5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_any_colour_mode_becomes_rgb(tmp_path, mode):
    Image.fromarray(plain(255)).convert(mode).save(tmp_path / "image.tiff")
    assert decode_image(tmp_path / "image.tiff", 4).tolist() == np.full((3, 4, 4), 255).tolist()


def test_only_upright_images_obey_the_orientation_tag():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(plain(9, 30, 20), "JPEG", exif=exif)
    assert open_image(turned).size == (30, 20)
    assert open_image(turned, upright=True).size == (20, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_turned_as_pillow_turns_it(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for form in ("PNG", "TIFF"):
        turned = encoded(pixels, form, exif=exif)
        with Image.open(io.BytesIO(turned)) as image:
            expected = np.array(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(open_image(turned, upright=True), expected)


def test_a_photograph_is_turned_although_another_tag_is_damaged():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    sound = encoded(plain(9, 30, 20), "JPEG", exif=exif)
    damaged = sound.replace(b"\x01\x0f\x00\x02", b"\x01\x01\x00\x02")  # the height is a word
    assert damaged != sound
    assert open_image(damaged, upright=True).size == (20, 30)


@pytest.mark.parametrize("pixels", [np.uint16([[0, 65535]]), np.int32([[9]]), np.float32([[0.5]])])
def test_pixels_that_eight_bits_cannot_hold_are_refused(pixels):
    with pytest.raises(InputError, match="pixels; save it with 8 bits a channel"):
        open_image(encoded(pixels, "TIFF"))


def test_whatever_pillow_says_of_a_damaged_file_is_an_input_error():
    with pytest.raises(InputError, match="cannot be decoded"):
        open_image(UNKNOWN_TEXTURE)


def test_a_bomb_is_an_input_error(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="cannot be decoded"):
        open_image(encoded(plain(0)))


def test_a_folder_is_not_an_image(tmp_path):
    with pytest.raises(InputError, match="cannot be decoded"):
        open_image(tmp_path)


def noisy(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        row(f"p{i}", encoded(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)))
        for i in range(count)
    ]


def never(*_):
    raise AssertionError("decoded again")


def test_pixels_beyond_the_memory_are_mapped_from_a_file_and_are_the_same(tmp_path, monkeypatch):
    rows = [*noisy(5), row("broken", b"no image"), *noisy(1, seed=1)]
    rows[-1] = row("last", encoded(plain((1, 2, 3))))
    people = write(tmp_path / "data", rows)
    plainly = load_images(tmp_path / "data", "train", people, 8, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    load = {"cache": tmp_path / "cache", "in_memory": 100}
    mapped = load_images(tmp_path / "data", "train", people, 8, **load)
    assert (tmp_path / "cache" / "train-8px.pixels").stat().st_size == 6 * 3 * 8 * 8
    monkeypatch.setattr(images, "decode_image", never)
    again = load_images(tmp_path / "data", "train", people, 8, **load)
    for found in (mapped, again):
        assert torch.equal(found.pixels, plainly.pixels)
        assert torch.equal(found.rows, plainly.rows)
        assert found.unreadable == plainly.unreadable
    # A batch is a copy, and the file is nobody's to change.
    again.pixels[[0, 1]].zero_()
    assert torch.equal(again.pixels, plainly.pixels)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs Linux's /proc/meminfo")
def test_mapped_pixels_may_be_more_than_the_memory_holds(tmp_path):
    """A file with a hole in it stands for one that no memory could hold."""
    memory = sum(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith(("MemTotal", "SwapTotal"))
    )
    file, many = tmp_path / "pixels", 2 * memory // (3 * 8 * 8)
    file.write_bytes(b"first")
    os.truncate(file, many * 3 * 8 * 8)
    found = images._in_file(file, (many, 3, 8, 8))
    assert len(found) == many
    assert bytes(found[0].flatten()[:5].tolist()) == b"first"
    assert not found[-1].any()


def test_images_of_a_shard_that_cannot_be_read_are_named_with_the_reason(tmp_path):
    people = write(tmp_path, noisy(3))
    spoil_column(tmp_path / "observations" / "train-00000.parquet", "image_path")
    with pytest.raises(InputError, match=r"train-00000\.parquet is not a whole Parquet shard"):
        load_images(tmp_path, "train", people, 8)


def test_a_copy_of_a_data_set_has_the_same_mapped_pixels(tmp_path, monkeypatch):
    data, load = tmp_path / "data", {"cache": tmp_path / "cache", "in_memory": 0}
    people = write(data, noisy(3))
    load_images(data, "train", people, 8, **load)
    for shard in (data / "observations").iterdir():
        os.utime(shard, (0, 0))
    monkeypatch.setattr(images, "decode_image", never)
    load_images(data, "train", people, 8, **load)


@pytest.mark.parametrize("change", ["shard", "crop", "short", "notes", "killed"])
def test_mapped_pixels_are_decoded_again_when_they_are_not_what_is_asked_for(tmp_path, change):
    data, cache = tmp_path / "data", tmp_path / "cache"
    people = write(data, noisy(3))
    load_images(data, "train", people, 8, cache=cache, in_memory=0)
    pixels, notes = cache / "train-8px.pixels", cache / "train-8px.json"
    if change == "shard":
        people = write(data, noisy(3, seed=5))
    elif change == "crop":
        people = replace(people, crop=people.crop.map(lambda x: x + 1))
    elif change == "short":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif change == "notes":
        notes.write_text("{")
    else:
        notes.unlink()
        (cache / ".train-8px.pixels.99.part").write_bytes(b"half")
    before = pixels.stat().st_mtime_ns
    found = load_images(data, "train", people, 8, cache=cache, in_memory=0)
    assert pixels.stat().st_mtime_ns > before
    assert torch.equal(found.pixels, load_images(data, "train", people, 8).pixels)
    assert sorted(path.name for path in cache.iterdir()) == ["train-8px.json", "train-8px.pixels"]


def test_a_split_without_a_readable_image_leaves_no_mapped_pixels(tmp_path):
    people = write(tmp_path / "data", [row("text", b"not an image")])
    for _ in range(2):
        with pytest.raises(InputError, match="no readable image in the split 'train'; text"):
            load_images(
                tmp_path / "data", "train", people, 8, cache=tmp_path / "cache", in_memory=0
            )
    assert not (tmp_path / "cache" / "train-8px.json").exists()


def test_people_whose_shard_has_gone_are_listed(tmp_path):
    write(tmp_path, noisy(2))
    write_rows(tmp_path, "train", 1, [row("later", encoded(plain(3)))])
    people = read_people(tmp_path, "train")
    next((tmp_path / "observations").glob("train-*0.parquet")).unlink()
    found = load_images(tmp_path, "train", people, 8)
    assert found.rows.tolist() == [2]
    assert [one.key for one in found.unreadable] == ["p0", "p1"]
    assert "its shard has gone" in found.unreadable[0].reason
    assert found.pixels.unique().tolist() == [3]


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_row_without_an_image_and_without_a_path_is_listed(tmp_path, nothing):
    people = write(tmp_path, [row("p0", encoded(plain(3))), row("p1", None)])
    (path,) = tmp_path.glob("observations/*")
    table = pq.read_table(path)
    place = table.column_names.index("image_path")
    pq.write_table(table.set_column(place, "image_path", pa.array(["", nothing])), path)
    found = load_images(tmp_path, "train", people, 8)
    assert [(one.key, one.reason) for one in found.unreadable] == [
        ("p1", "it has no image and no image_path")
    ]


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_CONTAINER", tmp_path / "memory.max")
    machine = images._memory()
    assert machine > 2**20
    (tmp_path / "memory.max").write_text("max\n")
    assert images._memory() == machine
    (tmp_path / "memory.max").write_text("1048576\n")
    assert images._memory() == 2**20
