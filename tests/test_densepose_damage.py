"""Wrong, damaged and hostile files of DensePose's results: refused or read, row by row, never run."""

import base64
import contextlib
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deformlearn import torchfiles
from deformlearn.data.densepose_labels import read_challenge
from deformlearn.data.json_stream import read_places
from deformlearn.data.predictions import open_predictions
from deformlearn.data.soundness import Rejected
from deformlearn.errors import InputError
from deformlearn.torchfiles import load_torch
from densepose_files import (
    DUMPS,
    SIZE,
    TWO,
    assert_planted,
    challenge_result,
    densepose_modules,
    dump_entry,
    people_in,
    person,
    png_text,
    write_challenge,
    write_dump,
    write_value,
)
from hostile import attacks


def test_files_of_another_kind_are_refused(tmp_path):
    files = {
        "empty": b"", "text": b"hello", "binary": bytes(range(200, 256)), "dict": b'{"a": 1}',
        "number": b"12", "jpeg": b"\xff\xd8\xff\xe0" + b"0" * 100, "zip": b"PK\x03\x04" + b"0" * 50,
        "pickle": pickle.dumps({"a": 1}), "short": b"\x80\x04",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name) as told:
            open_predictions(tmp_path / name)
        assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="cannot read"):
        open_predictions(tmp_path / "gone")
    with pytest.raises(InputError, match=r"has no \*_IUV\.png"):
        open_predictions(tmp_path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(InputError, match=r"without torch's data\.pkl"):
        open_predictions(tmp_path / "other.zip")


@pytest.mark.parametrize("how", ["zip", "older", "pickle"])
def test_a_dump_that_is_cut_off_is_refused_wherever_it_ends(tmp_path, how):
    path = write_dump(tmp_path / "d.pkl", "plain", {"a.jpg": TWO}, how)
    content = path.read_bytes()
    for length in range(1, len(content), len(content) // 40):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            people_in(path)


def test_a_challenge_json_that_is_cut_off_is_refused_and_whole_ones_of_any_layout_are_read(
    tmp_path,
):
    path = write_challenge(tmp_path / "r.json", {1: [person(score=0.9)]})
    text = path.read_text()
    for length in range(1, len(text), max(1, len(text) // 50)):
        path.write_text(text[:length])
        with pytest.raises(InputError, match=r"r\.json"):
            open_predictions(path)
    path.write_text(f"\n [ {json.dumps(json.loads(text)[0], indent=1)}\n\n,  {text[1:-1]} ]  ")
    assert len(open_predictions(path).images["1"].rows) == 2
    path.write_text("[ ]")
    assert list(read_challenge(path)) == []
    path.write_text("[1 2]")
    with pytest.raises(InputError, match="got '2'"):
        list(read_challenge(path))


def test_places_of_values_in_a_long_list_are_right(tmp_path):
    values = ["é" * 40 + "\U0001f600", 12345, {"a": [1, "]"]}, None, "x" * 3_000_000, 7]
    path = tmp_path / "l.json"
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    content = path.read_bytes()
    found = list(read_places(path))
    assert [json.loads(content[start : start + length]) for _, start, length in found] == values


def bad_challenge_results():
    good = challenge_result(person(), 1)

    def changed(**fields):
        return {**good, **fields}

    return {
        "has no uv_shape, uv_data": {"image_id": 1, "bbox": [0, 0, 4, 4]},
        "bbox": changed(bbox=[1, 2, "x", 4]),
        "4 finite numbers": changed(bbox=[1, 2, float("nan"), 4]),
        "no size": changed(bbox=[1, 2, 0, 4]),
        "larger than any image": changed(bbox=[1e300, 2, 40, 70]),
        "but its box is": changed(bbox=[20.25, 10.25, 30, 70]),
        "wanted 3, height, width": changed(uv_shape=[3, 70]),
        "is written beside it": changed(uv_shape=[3, 71, 40]),
        "not base64": changed(uv_data="!!!"),
        "not an image file": changed(uv_data="aGVsbG8="),
        "is no text": changed(uv_data=5),
        "cannot be read to its end": changed(
            uv_data=base64.b64encode(base64.b64decode(good["uv_data"])[:90]).decode()
        ),
        "parts go from": changed(uv_data=png_text(np.full((3, 70, 40), 99, np.uint8))),
        "no pixel of its box": changed(uv_data=png_text(np.zeros((3, 70, 40), np.uint8))),
        "score": changed(score="high"),
    }


@pytest.mark.parametrize("reason", bad_challenge_results())
def test_a_bad_challenge_result_is_rejected_and_the_others_are_kept(tmp_path, reason):
    good = challenge_result(person(left=60), 1)
    rows = [bad_challenge_results()[reason], good, "text", {"bbox": 1}, {"image_id": True}]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    opened = open_predictions(tmp_path / "r.json")
    assert [one.where for one in opened.rejected] == [
        f"{tmp_path / 'r.json'}: result {row}" for row in (2, 3, 4)
    ]
    people, rejected = opened.images["1"].people(SIZE)
    assert len(people) == 1
    assert [reason in one.reason for one in rejected] == [True]
    assert rejected[0].where.endswith("result 0")


def bad_dump_entries(classes):
    def changed(**fields):
        return {**dump_entry(classes, "plain", "a.jpg", [person()]), **fields}

    chart = classes["plain"]
    labels, uv = torch.ones(70, 40, dtype=torch.long), torch.zeros(2, 70, 40)
    whole = {
        "no file_name": {"scores": 1},
        "no dict": 5,
        "raw instances": {"file_name": "a.jpg", "instances": 1},
        "no pred_densepose": {"file_name": "a.jpg", "pred_boxes_XYXY": torch.ones(1, 4)},
        "no pred_boxes_XYXY": {"file_name": "a.jpg", "pred_densepose": [1]},
        "continuous surface embeddings": changed(pred_densepose=classes["embedding"](uv, uv)),
        "wanted chart results": changed(pred_densepose=7),
    }
    people = {
        "for 1 people": changed(scores=torch.ones(3)),
        "box is": changed(pred_boxes_XYXY=torch.ones(1, 3)),
        "finite": changed(pred_boxes_XYXY=torch.full((1, 4), torch.nan)),
        "its box has no size": changed(pred_boxes_XYXY=torch.tensor([[9.0, 9, 3, 20]])),
        "larger than any image": changed(pred_boxes_XYXY=torch.tensor([[-3e38, 9, 3e38, 20]])),
        "but its box is": changed(pred_densepose=[chart(labels[:50], uv[:, :50])]),
        "wanted h, w": changed(pred_densepose=[chart(labels, uv[:, :50])]),
        "h, w and 2, h, w": changed(pred_densepose=[chart(labels.float(), uv)]),
        "has no labels, uv": changed(pred_densepose=[chart(None, None)]),
        "no uv": changed(pred_densepose=[{"labels": labels}]),
        "parts go from": changed(pred_densepose=[chart(labels * 30, uv)]),
        "parts go from -1": changed(pred_densepose=[chart(-labels, uv)]),
        "no pixel": changed(pred_densepose=[chart(labels, uv * torch.nan)]),
        "wanted uint8": changed(pred_densepose=[classes["quantised"](uv)]),
        "wanted 3, height": changed(pred_densepose=[classes["compressed"]((3, 4), "aa")]),
        "where numbers should be": changed(scores="high"),
        "sigma_2 is": changed(
            pred_densepose=[classes["confident"](labels, uv, None, labels[:3].float())]
        ),
        "stands where numbers": changed(pred_densepose=[chart(labels, "uv")]),
    }
    return whole, people


def test_bad_entries_of_a_dump_are_rejected_with_the_reason_and_the_others_are_kept(tmp_path):
    with densepose_modules() as classes:
        whole, people = bad_dump_entries(classes)
        good = dump_entry(classes, "plain", "good.jpg", [person()])
        nobody = {
            "file_name": "n.jpg",
            "scores": torch.ones(0),
            "pred_boxes_XYXY": torch.ones(0, 4),
        }
        write_value(tmp_path / "d.pt", [*whole.values(), nobody, good, good], "zip")
        for number, entry in enumerate(people.values()):
            write_value(tmp_path / f"{number}.pt", [entry], "zip")
    opened = open_predictions(tmp_path / "d.pt")
    assert list(opened.images) == ["good"]
    for reason, one in zip([*whole, "twice"], opened.rejected, strict=True):
        assert reason in one.reason
    assert_planted(opened.images["good"].people(SIZE), [person()], 2e-7)
    for number, reason in enumerate(people):
        try:
            _, (one,) = people_in(tmp_path / f"{number}.pt")
            told = one.reason
        except InputError as error:
            told = str(error)
        assert reason in told


def test_an_inds_image_goes_with_an_iuv_image_only(tmp_path):
    path = write_challenge(tmp_path / "r.json", {1: TWO})
    with pytest.raises(InputError, match="goes with an IUV png"):
        open_predictions(path, tmp_path / "a_INDS.png")


@pytest.mark.parametrize("content", ["{}", "[1]", '{"images": [{"id": 1}]}', "x"])
def test_an_image_list_of_another_kind_is_refused(tmp_path, content):
    path = write_challenge(tmp_path / "r.json", {1: TWO})
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match="no COCO-style json"):
        open_predictions(path, image_list=tmp_path / "list.json")


# Hostile files


@pytest.mark.parametrize("name", sorted(attacks("canary")))
def test_an_attack_in_a_dump_is_refused_and_not_run(name, tmp_path):
    canary = tmp_path / "canary"
    content = attacks(str(canary))[name]
    inside = pickle.dumps([{"file_name": "a.jpg"}], 2)[:-1]
    torch.save([1], tmp_path / "zip")
    with zipfile.ZipFile(tmp_path / "zip") as archive:
        names = [one for one in archive.namelist() if not one.endswith("data.pkl")]
        members = {one: archive.read(one) for one in names}
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr(f"{names[0].split('/')[0]}/data.pkl", content)
        for member, held in members.items():
            archive.writestr(member, held)
    torch.save([1], tmp_path / "older", _use_new_zipfile_serialization=False)
    older = (tmp_path / "older").read_bytes()
    end = older.index(b".", older.index(b"type_sizes")) + 1
    (tmp_path / "older").write_bytes(older[:end] + content)
    embedded = (
        b"\x80\x02ctorch.storage\n_load_from_bytes\n(" + pickle.dumps(content, 2)[2:-1] + b"tR."
    )
    (tmp_path / "embedded").write_bytes(embedded)
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "behind").write_bytes(inside + content[2:-1] + b"\x86.")
    for file in ("zip", "older", "embedded", "plain", "behind"):
        with pytest.raises(InputError):
            open_predictions(tmp_path / file)
    assert not canary.exists()


def asked_for(content: bytes, times: int) -> bytes:
    """A pickle that has torch load the same bytes again and again."""
    held = pickle.dumps(content, 3)[2:-1]  # the bytes, put down in the memo first
    load = b"ctorch.storage\n_load_from_bytes\nq\x01"
    return b"\x80\x03" + held + load + b"00" + b"h\x01h\x00\x85R0" * times + b"N."


def older(value: bytes) -> bytes:
    """torch's older file of a pickled value."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(one, 2) for one in head) + value + pickle.dumps([], 2)


def test_files_of_torch_inside_one_another_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(asked_for(older(asked_for(older(b"N."), 1)), 1))
    with pytest.raises(InputError, match=r"asks to import torch\.storage\._load_from_bytes"):
        load_torch(tmp_path / "a.pkl", {}, "a dump")


def test_a_file_of_torch_inside_another_is_read_once(tmp_path, monkeypatch):
    read = []
    whole = torchfiles._load_older
    monkeypatch.setattr(torchfiles, "_load_older", lambda *_: [read.append(1), whole(*_)][1])
    (tmp_path / "a.pkl").write_bytes(asked_for(older(b"N."), 100))
    load_torch(tmp_path / "a.pkl", {}, "a dump")
    assert len(read) == 1


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """One small sound file of each format."""
    folder = tmp_path_factory.mktemp("samples")
    small = [person(3, 3, 8, 30, score=0.9)]
    paths = [write_challenge(folder / "r.json", {1: small})]
    paths += [
        write_dump(folder / f"{kind}-{how}", kind, {"1.jpg": small}, how) for kind, how in DUMPS
    ]
    part, (u, v) = small[0].labels, small[0].uv
    Image.fromarray(np.stack([v, u, part], -1).astype(np.uint8)).save(folder / "1_IUV.png")
    return [*paths, folder / "1_IUV.png"]


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_files_are_read_or_refused(samples, tmp_path, data):
    content = bytearray(data.draw(st.sampled_from(samples), "file").read_bytes())
    for _ in range(data.draw(st.integers(1, 8), "changes")):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        opened = open_predictions(path)
        for image in opened.images.values():
            with contextlib.suppress(InputError):
                people, rejected = image.people(SIZE)
                assert all(isinstance(one, Rejected) for one in rejected)
                for one in people:
                    assert 1 <= one.part.min() <= one.part.max() <= 24
                    assert (one.pixels >= 0).all()
                    assert np.isfinite([one.u, one.v]).all()
