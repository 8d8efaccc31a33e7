"""Frames of videos by their exact numbers, and videos made of frames (PyAV).

A frame's number counts the frames in the order they are shown, from 0. Containers store them in
another order (B-frames) and at uneven times (variable rate), so no number is ever computed from a
time and a frame rate: the packets are listed once, without decoding, and the rank of a packet's time
is its frame's number. Where a container tells no times the frames are counted as they are decoded.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from deformlearn.errors import InputError

VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp",
}  # fmt: skip

# Playlists and image patterns would make the decoder open other files than the one that was named.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,asf,flv"
_TRIED = 48
"""Frames that are decoded to see whether the times are true: AVI knows none for B-frames."""
_MOST = 0.6
"""Share of them that must come; half of them would mean two packets a frame."""

_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
_FASTEST = 1000
"""Frames a second; what claims more is damaged."""
_LISTED = 5
"""How many missing frames a message names."""


@dataclass(frozen=True, eq=False)
class _Timeline:
    """Where each frame of a video is."""

    count: int
    times: np.ndarray | None
    """Time of each frame (stream units), ascending; None where only counting is exact."""
    keys: tuple[int, ...] = ()
    """Numbers of the frames at which decoding can begin."""


def is_video(path: Path) -> bool:
    """Whether a file is called a video; what is in it shows when it is read."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def frame_count(video: Path) -> int:
    """How many frames can be shown; a file that is cut short counts up to the cut."""
    return _timeline(video).count


def frame_rate(video: Path) -> Fraction:
    """Frames a second, on average; 25 where the file says nothing that can be."""
    with _opened(video) as (_, stream):
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    # 30000/1001 stays what it is; MPEG-4 takes no finer parts than 1/65535.
    return rate.limit_denominator(1001) if 0.01 <= rate <= _FASTEST else Fraction(25)


def read_frames(video: Path, indices: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames of these numbers with their numbers, ascending and each once, as upright RGB.

    One frame is held at a time, and what lies between far frames is skipped where that is exact. The
    rotation a camera noted is obeyed, as players and OpenCV do. A file that is no video is an
    InputError at once; frames that do not exist or cannot be decoded are named in an InputError
    after all others were given.
    """
    wanted = sorted({int(index) for index in indices})
    if wanted and wanted[0] < 0:
        raise InputError(f"frame numbers count from 0, got {wanted[0]} of {video}")
    timeline = _timeline(video)
    missing = [index for index in wanted if index >= timeline.count]
    present = wanted[: len(wanted) - len(missing)]
    given: set[int] = set()
    if present:
        reader = _by_counting if timeline.times is None else _by_time
        for index, frame in reader(video, timeline, present):
            given.add(index)
            yield index, _upright(frame, video)
    lost = [index for index in present if index not in given]
    if lost:
        raise InputError(f"{_named(lost)} of {video} cannot be decoded: the file is damaged there")
    if missing:
        raise InputError(
            f"{video} has {timeline.count} frames (0 is the first): no {_named(missing)}"
        )


class VideoWriter:
    """A video that is written frame by frame and appears under its name when it is whole.

    H.264 in any container that takes it, MPEG-4 where the encoder is not there. An odd last row or
    column, which neither can hold, is left out.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._path = path
        self._part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._rate = rate
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def add(self, picture: UInt8[np.ndarray, "height width 3"]) -> None:
        """Append an RGB picture; all must be of one size."""
        height, width = (side - side % 2 for side in picture.shape[:2])
        try:
            if self._container is None:
                self._open(width, height)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error
        if (self._stream.width, self._stream.height) != (width, height):
            raise InputError(
                f"{self._path} holds frames of {self._stream.width} x {self._stream.height} px, "
                f"got one of {width} x {height}"
            )
        try:
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture[:height, :width]), format="rgb24"
            )
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from error

    def _open(self, width: int, height: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(f"file:{self._part.absolute()}", "w")
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._container is not None:
                if kind is None:
                    self._container.mux(self._stream.encode(None))
                self._container.close()
                if kind is None:
                    os.replace(self._part, self._path)
        except (av.FFmpegError, OSError) as failure:
            raise self._failed(failure) from failure
        finally:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)

    def _failed(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or error
        return InputError(
            f"cannot write {self._path}: {reason}; free space or choose another place"
        )


@contextlib.contextmanager
def _opened(video: Path) -> Iterator[tuple[Any, Any]]:
    """A video's container and its stream of pictures."""
    if not video.is_file():
        raise InputError(f"{video} is no file" if video.exists() else f"{video} does not exist")
    try:
        # "file:" keeps names like "concat:a" from being taken for protocols.
        container = av.open(f"file:{video.absolute()}", options={"format_whitelist": _CONTAINERS})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{video} is not a video, or is cut short ({error.__class__.__name__}); wanted mp4, mov, "
            f"avi, mkv or webm"
        ) from error
    with container:
        if not container.streams.video:
            raise InputError(f"{video} holds no pictures, only sound or text; wanted a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _timeline(video: Path) -> _Timeline:
    try:
        state = video.stat()
    except OSError as error:
        raise InputError(f"{video} does not exist") from error
    return _timeline_of(video.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _timeline_of(video: Path, size: int, changed: int) -> _Timeline:
    """The timeline of a file; its size and time of change are only there to notice another file."""
    times: list[int | None] = []
    starts: list[int] = []
    # A file that is cut short ends with an error.
    with _opened(video) as (container, stream), contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard or packet.is_corrupt:
                continue
            times.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                starts.append(packet.pts)
    if not starts or None in times or len(set(times)) < len(times):
        return _Timeline(_count(video), None)
    # Nothing before the first key frame can be decoded.
    shown = sorted(time for time in times if time is not None and time >= min(starts))
    if not _are_true(shown, video):
        return _Timeline(_count(video), None)
    numbers = np.searchsorted(shown, sorted(starts)).tolist()
    return _Timeline(len(shown), np.array(shown, dtype=np.int64), tuple(numbers))


def _are_true(times: list[int], video: Path) -> bool:
    """Whether the first frames come at these times, one after another and (but for damage) all."""
    with _opened(video) as (container, stream):
        first = islice(_decoded(container, stream), _TRIED)
        tried = [frame.pts for frame in first if frame is not None]
    if not tried or not set(tried) <= set(times) or tried != sorted(tried):
        return False
    return len(tried) > _MOST * (times.index(tried[-1]) + 1)


def _count(video: Path) -> int:
    with _opened(video) as (container, stream):
        number = 0
        for frame in _decoded(container, stream):
            if frame is None:
                break
            number += 1
    return number


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames from here on in the order they are shown; None for a packet that cannot be decoded."""
    with contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                yield None
                continue
            yield from frames


def _by_counting(video: Path, timeline: _Timeline, wanted: list[int]) -> Iterator[tuple[int, Any]]:
    """These frames, decoding from the beginning; it ends where the count would be in doubt."""
    left = iter(wanted)
    target = next(left)
    with _opened(video) as (container, stream):
        for number, frame in enumerate(_decoded(container, stream)):
            if frame is None:
                return
            if number == target:
                yield number, frame
                following = next(left, None)
                if following is None:
                    return
                target = following


def _by_time(video: Path, timeline: _Timeline, wanted: list[int]) -> Iterator[tuple[int, Any]]:
    """These frames, beginning anew at a key frame wherever that leaves others out.

    Frames that cannot be decoded do not come.
    """
    with _opened(video) as (container, stream):
        frames = _numbered(container, stream, timeline)
        number, frame = -1, None
        for target in wanted:
            before = bisect_right(timeline.keys, target)
            if timeline.keys[before - 1] > number + 1:
                frames = _from_key(container, stream, timeline, before - 1)
            while number < target:
                number, frame = next(frames, (timeline.count, None))
            if number == target:
                yield number, frame


def _from_key(container: Any, stream: Any, timeline: _Timeline, key: int) -> Iterator[Any]:
    """Numbered frames from this key frame on.

    Some containers have no exact index and land behind the key frame: then an earlier one is tried.
    """
    assert timeline.times is not None
    for start in reversed(timeline.keys[: key + 1]):
        container.seek(int(timeline.times[start]), stream=stream)
        frames = _numbered(container, stream, timeline)
        first = next(frames, None)
        if first is not None and first[0] <= timeline.keys[key]:
            return chain([first], frames)
    container.seek(0)
    return _numbered(container, stream, timeline)


def _numbered(container: Any, stream: Any, timeline: _Timeline) -> Iterator[tuple[int, Any]]:
    """Whole frames from here on with their numbers."""
    times = timeline.times
    assert times is not None
    for frame in _decoded(container, stream):
        if frame is None or frame.pts is None or frame.is_corrupt:
            continue
        number = int(np.searchsorted(times, frame.pts))
        if number < len(times) and times[number] == frame.pts:
            yield number, frame


def _upright(frame: Any, video: Path) -> Image.Image:
    try:
        image: Image.Image = frame.to_image()
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"a frame of {video} has pixels that cannot be shown ({error})") from error
    turn = _TURNS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)


def _named(frames: Sequence[int]) -> str:
    listed = ", ".join(str(frame) for frame in frames[:_LISTED])
    more = f" and {len(frames) - _LISTED} more" if len(frames) > _LISTED else ""
    return f"frame{'s' if len(frames) > 1 else ''} {listed}{more}"
