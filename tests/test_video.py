"""Every frame carries its number as black and white blocks, so that an off-by-one fails."""

import random
import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deformlearn.data import video as module
from deformlearn.data.video import VideoWriter, frame_count, frame_rate, is_video, read_frames
from deformlearn.errors import InputError

BITS = 10


def picture(number, height=48):
    """Blocks of 16 px: the bits of the number above, red, green and blue below."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    image = np.zeros((height, 16 * BITS, 3), dtype=np.uint8)
    image[:16] = np.repeat(np.array(bits, dtype=np.uint8) * 255, 16)[None, :, None]
    for colour in range(3):
        image[16:, 48 * colour : 48 * (colour + 1), colour] = 220
    return image


def number_in(image):
    row = np.asarray(image)[8, 8::16].astype(int).sum(-1) > 380
    return sum(1 << bit for bit, on in enumerate(row[:BITS]) if on)


def write(path, count, codec="libx264", rate=25, times=None, first=0, **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = 16 * BITS, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = {name: str(value) for name, value in options.items()}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(first + number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def collect(clip, wanted):
    """What comes before the error, and its message."""
    found = []
    try:
        for index, image in read_frames(clip, wanted):
            found.append((index, number_in(image)))
    except InputError as error:
        return found, str(error)
    return found, ""


def uneven(count):
    rng = random.Random(1)
    return list(np.cumsum([rng.choice([7, 20, 40, 333]) for _ in range(count)]).tolist())


KINDS = {
    "one long group": ("long.mp4", {"g": 500}),
    "short groups": ("short.mp4", {"g": 12}),
    "B-frames": ("b.mp4", {"g": 20, "bf": 3, "b_strategy": 0}),
    "open groups with B-frames": ("open.mkv", {"g": 20, "bf": 3, "x264-params": "open-gop=1"}),
    "key frames only": ("intra.mp4", {"g": 1}),
    "variable rate": ("variable.mp4", {"g": 15, "bf": 2, "times": uneven(90)}),
    "variable rate in mkv": ("variable.mkv", {"g": 15, "bf": 2, "times": uneven(90)}),
    "avi": ("old.avi", {"codec": "mpeg4", "g": 12}),
    "avi with B-frames": ("b.avi", {"codec": "mpeg4", "g": 12, "bf": 2}),
    "avi with H.264": ("h264.avi", {"g": 12, "bf": 3}),
    "motion jpeg": ("m.avi", {"codec": "mjpeg"}),
    "transport stream": ("t.ts", {"g": 12, "bf": 2}),
    "moving key frames": ("refresh.mp4", {"g": 30, "x264-params": "intra-refresh=1"}),
}


@pytest.fixture(scope="module", params=KINDS, ids=lambda name: name.replace(" ", "-"))
def clip(request, tmp_path_factory):
    name, options = KINDS[request.param]
    return write(tmp_path_factory.mktemp("clips") / name, 90, **options)


@pytest.mark.parametrize(
    "wanted", [range(90), [0], [89], [3, 41], [88, 89], [0, 1, 25, 26, 70], range(5, 90, 17)]
)
def test_the_frames_asked_for_come_with_their_own_pictures(clip, wanted):
    found = [(index, number_in(image)) for index, image in read_frames(clip, wanted)]
    assert found == [(index, index) for index in wanted]


def test_all_frames_are_counted(clip):
    assert frame_count(clip) == 90


def test_order_and_repetition_of_the_request_do_not_matter(clip):
    assert [index for index, _ in read_frames(clip, [70, 2, 70, 33])] == [2, 33, 70]
    assert not list(read_frames(clip, []))


def test_colours_are_red_green_and_blue_from_the_left(clip):
    ((_, image),) = read_frames(clip, [7])
    assert (image.mode, image.size) == ("RGB", (160, 48))
    for colour in range(3):
        pixel = np.array(image.getpixel((48 * colour + 24, 32)))
        assert pixel[colour] > 180
        assert np.delete(pixel, colour).max() < 60


def test_frames_before_a_far_one_are_not_decoded(tmp_path, monkeypatch):
    clip = write(tmp_path / "far.mp4", 400, g=10)
    decoded = []
    slow = module._decoded
    monkeypatch.setattr(
        module, "_decoded", lambda *a: (decoded.append(0) or frame for frame in slow(*a))
    )
    assert [number_in(image) for _, image in read_frames(clip, [395])] == [395]
    assert len(decoded) <= module._TRIED + 10


def test_frames_beyond_the_end_are_named_after_the_others(tmp_path):
    clip = write(tmp_path / "short.mp4", 20)
    found, reason = collect(clip, [400, 3, 20])
    assert found == [(3, 3)]
    assert reason == f"{clip} has 20 frames (0 is the first): no frames 20, 400"
    with pytest.raises(InputError, match=r"no frames 20, 21, 22, 23, 24 and 75 more"):
        list(read_frames(clip, range(20, 100)))
    with pytest.raises(InputError, match="count from 0, got -1"):
        list(read_frames(clip, [-1]))


def test_a_damaged_frame_is_named_and_the_others_are_kept(tmp_path):
    clip = write(tmp_path / "whole.avi", 30, codec="mjpeg")
    with av.open(str(clip)) as container:
        place = [(p.pos, p.size) for p in container.demux() if p.size][11]
    content = bytearray(clip.read_bytes())
    content[place[0] : place[0] + place[1]] = bytes(place[1])
    clip = tmp_path / "damaged.avi"
    clip.write_bytes(content)
    found, reason = collect(clip, range(30))
    assert reason == f"frame 11 of {clip} cannot be decoded: the file is damaged there"
    assert found == [(number, number) for number in range(30) if number != 11]


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".ts"])
def test_a_file_cut_short_gives_the_frames_before_the_cut(tmp_path, suffix):
    whole = write(tmp_path / f"whole{suffix}", 200, codec="mpeg4", g=5).read_bytes()
    clip = tmp_path / f"cut{suffix}"
    clip.write_bytes(whole[: len(whole) // 2])
    count = frame_count(clip)
    assert 20 < count < 190
    found, reason = collect(clip, range(200))
    assert "cannot be decoded" in reason or "no frames" in reason
    assert found == [(number, number) for number in range(len(found))]
    assert len(found) >= count - 1


def test_files_that_are_no_videos_are_refused(tmp_path):
    def refuse(name, content, words):
        path = tmp_path / name
        path.write_bytes(content)
        for read in (lambda: list(read_frames(path, [0])), lambda: frame_count(path)):
            with pytest.raises(InputError, match=words):
                read()

    whole = write(tmp_path / "whole.mp4", 20).read_bytes()
    refuse("empty.mp4", b"", "is not a video")
    refuse("text.mp4", b"no video at all\n" * 100, "is not a video")
    refuse("cut.mp4", whole[: len(whole) // 2], "not a video, or is cut short")
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile:{tmp_path / 'whole.mp4'}\n#EXT-X-ENDLIST\n"
    refuse("list.mp4", playlist.encode(), "is not a video")
    with pytest.raises(InputError, match="does not exist"):
        frame_count(tmp_path / "gone.mp4")
    with pytest.raises(InputError, match="is no file"):
        frame_rate(tmp_path)
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="no pictures"):
        frame_count(tmp_path / "sound.mkv")


@pytest.mark.parametrize(
    ("matrix", "turn"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)]
)
def test_the_rotation_a_phone_noted_is_obeyed(tmp_path, matrix, turn):
    clip = write(tmp_path / "stored.mp4", 3)
    content = bytearray(clip.read_bytes())
    # In the track's header: a, b, u, c, d, v as 16.16 numbers; the display's x is a x + c y.
    begin = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (value << 16 for value in matrix)
    content[begin : begin + 24] = struct.pack(">6i", a, b, 0, c, d, 0)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(content)
    ((_, stored),), ((_, upright),) = read_frames(clip, [2]), read_frames(turned, [2])
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(stored), turn))


def test_names_that_look_like_protocols_are_files(tmp_path, monkeypatch):
    write(tmp_path / "whole.mp4", 4).rename(tmp_path / "concat:a|b%03d.mp4")
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    assert frame_count(Path("concat:a|b%03d.mp4")) == 4


def test_a_file_that_changed_is_counted_anew(tmp_path):
    clip = write(tmp_path / "a.mp4", 5)
    assert frame_count(clip) == 5
    write(clip, 9)
    assert frame_count(clip) == 9


def test_memory_does_not_grow_with_the_video(tmp_path):
    clip = write(tmp_path / "long.mp4", 600)
    tracemalloc.start()
    for _ in read_frames(clip, range(600)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # one frame is 23 kB, all of them 14 MB


def test_videos_are_known_by_their_names(tmp_path):
    assert is_video(tmp_path / "a.MP4")
    assert not is_video(tmp_path / "a.jpg")


def test_a_written_video_reads_back(tmp_path):
    target = tmp_path / "new" / "out.mp4"
    with VideoWriter(target, Fraction(30000, 1001)) as writer:
        for number in range(40):
            writer.add(picture(number, height=49))
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["out.mp4"]
    assert frame_rate(target) == Fraction(30000, 1001)
    found = [(index, number_in(image)) for index, image in read_frames(target, range(40))]
    assert found == [(number, number) for number in range(40)]


def test_a_failed_or_empty_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", Fraction(25)) as writer:
        [writer.add({1: picture(1)}[number]) for number in (1, 2)]
    with VideoWriter(tmp_path / "b.mp4", Fraction(25)):
        pass
    with (
        pytest.raises(InputError, match="160 x 48 px, got one of 160 x 64"),
        VideoWriter(tmp_path / "c.mp4", Fraction(25)) as writer,
    ):
        [writer.add(picture(1, height)) for height in (48, 64)]
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(InputError, match="cannot write"),
        VideoWriter(tmp_path / "file" / "d.mp4", Fraction(25)) as writer,
    ):
        writer.add(picture(1))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    clips = [("a.mp4", {}), ("a.mkv", {}), ("a.avi", {"codec": "mpeg4"}), ("a.ts", {"bf": 2})]
    return folder, [write(folder / name, 12, g=4, **more).read_bytes() for name, more in clips]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_mutated_file_gives_frames_or_a_clear_error(small, data):
    folder, wholes = small
    content = bytearray(data.draw(st.sampled_from(wholes)))
    for _ in range(data.draw(st.integers(1, 12))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    path = folder / "mutated.mp4"
    path.write_bytes(content[:cut] if data.draw(st.booleans()) else content)
    found, reason = collect(path, [0, 3, 5, 11])
    indices = [index for index, _ in found]
    assert indices == sorted(set(indices) & {0, 3, 5, 11})
    assert "\n" not in reason
    assert reason or indices == [0, 3, 5, 11]
