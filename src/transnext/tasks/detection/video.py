"""Videos: frame by frame in and out, and objects followed from one to the next.

PyAV does it, which supervision brings along: its own functions read through OpenCV where that is installed, without the
times of frames, and take a damaged video for one that ends.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transnext.atomic import replacing
from transnext.data.names import printable
from transnext.extras import require
from transnext.limits import check_number
from transnext.tasks.detection.answers import ObjectsFound

Pixels = npt.NDArray[np.uint8]

_WRITTEN = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
    ".avi": ("avi", "mpeg4"),
}
"""Container and codec by suffix."""
_READ = frozenset({*_WRITTEN, ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".m2ts", ".mts", ".3gp", ".ogv", ".vob"})
_USUAL_FPS = 25.0
_logger = logging.getLogger("transnext")


class VideoFacts(NamedTuple):
    """What a video says of itself.

    Attributes:
        fps: Frames a second, on average; 25 where it does not say.
        frames: How many, as far as it knows; None where it does not say.
        size: `(H, W)` of the upright frames, pixels.
    """

    fps: float
    frames: int | None
    size: tuple[int, int]


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of a video, by its suffix."""
    return Path(path).suffix.lower() in _READ


def check_video_output(path: str | os.PathLike[str]) -> None:
    """Refuses a name whose suffix names no kind of video that can be written.

    Raises:
        ValueError: It does.
    """
    if Path(path).suffix.lower() not in _WRITTEN:
        raise ValueError(f"{path} names no video that can be written: choose {', '.join(_WRITTEN)}")


def video_facts(path: str | os.PathLike[str]) -> VideoFacts:
    """What a video says of itself; its first frame is decoded.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no video, is damaged, or has no frames.
    """
    with _opened(path) as (container, stream):
        first, _ = next(_upright(path, container, stream))
        fps = float(stream.average_rate or stream.base_rate or _USUAL_FPS)
        return VideoFacts(fps=fps, frames=stream.frames or None, size=first.shape[:2])


def read_frames(path: str | os.PathLike[str]) -> Iterator[tuple[Pixels, float]]:
    """The frames of a video one after the other, upright.

    What cannot be decoded is passed over, counted and logged.

    Args:
        path: Of the video.

    Yields:
        uint8 `[H, W, 3]`, RGB, and when it is shown, seconds from the start.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no video, is damaged, or has no frames.
    """
    with _opened(path) as (container, stream):
        yield from _upright(path, container, stream)


@contextmanager
def video_writer(path: str | os.PathLike[str], fps: float) -> Iterator[Callable[[Pixels], None]]:
    """Writes a video frame by frame, whole or not at all; without sound.

    Args:
        path: .mp4, .mov, .m4v or .mkv (H.264), .webm (VP9) or .avi (MPEG-4).
        fps: Frames a second.

    Yields:
        Function that takes a frame, uint8 `[H, W, 3]`, RGB; all are of one size. A side of odd length gets its last row
        or column twice, as codecs want even ones.

    Raises:
        ValueError: The suffix names no kind of video that can be written, the rate is out of range, sizes differ, or
            there is no frame.
    """
    require("writing videos", "av", extra="detect")
    import av

    check_video_output(path)
    check_number("fps", fps, 0, 1000, above=True)
    form, codec = _WRITTEN[Path(path).suffix.lower()]
    if codec not in av.codecs_available:
        raise ValueError(f"this build of PyAV has no {codec} for {Path(path).suffix}: choose another, for example .avi")
    with replacing(Path(path)) as temporary, av.open(str(temporary), "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20"} if codec == "libx264" else {}
        size: tuple[int, ...] | None = None

        def add(frame: Pixels) -> None:
            nonlocal size
            if size is None:
                size = frame.shape
                stream.height, stream.width = (side + side % 2 for side in size[:2])
                if codec != "libx264":  # where quality is not asked for, bits are: four a pixel
                    stream.bit_rate = min(2**31 - 1, max(10_000, int(4 * size[0] * size[1] * fps)))
            if frame.shape != size:
                raise ValueError(f"a frame of {_by(frame.shape)} pixels in a video of {_by(size)}")
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"))

        def encode(frame: Any) -> None:
            try:
                container.mux(stream.encode(frame))
            except av.FFmpegError as error:
                raise ValueError(f"cannot write video {path}: {_reason(error)}") from None

        yield add
        if size is None:
            raise ValueError(f"there are no frames for {path}")
        encode(None)


def write_video(path: str | os.PathLike[str], frames: Iterable[Pixels], fps: float) -> None:
    """Writes frames as a video; see `video_writer`."""
    with video_writer(path, fps) as add:
        for frame in frames:
            add(frame)


def track(answers: Iterable[ObjectsFound], *, fps: float, threshold: float) -> Iterator[ObjectsFound]:
    """Follows objects through the frames of a video, by ByteTrack.

    An object gets its number in the second frame in which it is seen; until then its `tracker_id` is -1. Classes are
    not told apart: an object that changes its class keeps its number.

    Args:
        answers: Of the frames in order. If they hold objects down to `following_threshold(threshold)`, objects that are
            known go on while their scores are low.
        fps: Frames a second: what is out of sight for a second is forgotten.
        threshold: Score from which on an object is new, 0..1.

    Yields:
        The answers with `tracker_id`, without objects below the threshold that are not known.
    """
    check_number("threshold", threshold, 0, 1)
    check_number("fps", fps, 0, above=True)
    require("following objects", "trackers", extra="detect")
    import supervision as sv
    from trackers import ByteTrackTracker

    tracker = ByteTrackTracker(
        lost_track_buffer=30,  # at 30 frames a second
        frame_rate=fps,
        track_activation_threshold=threshold,
        high_conf_det_threshold=threshold,
    )
    for found in answers:
        places = np.arange(len(found))
        # It orders objects anew, and leaves out of its answer what is not arrays: only numbers go through it.
        seen = sv.Detections(xyxy=found.xyxy, confidence=found.scores, data={"place": places})
        followed = tracker.update(seen)
        ids = np.full(len(found), -1, np.int64)
        if followed.tracker_id is not None and len(followed):
            ids[np.asarray(followed.data["place"])] = followed.tracker_id
        yield replace(found, tracker_id=ids).select((ids >= 0) | (found.scores >= threshold))


def following_threshold(threshold: float) -> float:
    """Score down to which objects that are known are worth following, 0..1."""
    return min(threshold, max(0.1, threshold / 2))


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    require("reading videos", "av", extra="detect")
    import av

    if not Path(path).exists():
        raise FileNotFoundError(f"no file {printable(path)}")
    try:
        container = av.open(os.fspath(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"cannot read video {printable(path)}: {_reason(error)}") from None
    with container:
        if not container.streams.video:
            raise ValueError(f"cannot read video {printable(path)}: there is no picture in it")
        yield container, container.streams.video[0]


def _upright(path: str | os.PathLike[str], container: Any, stream: Any) -> Iterator[tuple[Pixels, float]]:
    """The frames, and when they are shown, seconds."""
    fps = float(stream.average_rate or stream.base_rate or _USUAL_FPS)
    damage: list[str] = []
    count, start = 0, None
    for frame in _decoded(container, stream, damage):
        # Some containers know no times.
        shown = count / fps if frame.time is None else float(frame.time)
        start = shown if start is None else start
        pixels = frame.to_ndarray(format="rgb24")
        turns = frame.rotation // 90 % 4 if frame.rotation % 90 == 0 else 0
        yield np.ascontiguousarray(np.rot90(pixels, turns)), shown - start
        count += 1
    if not count:
        raise ValueError(f"cannot read video {printable(path)}: {damage[0] if damage else 'it has no frames'}")
    if damage:
        _logger.warning("%s: %d frames were read, some are damaged: %s", printable(path), count, damage[0])


def _decoded(container: Any, stream: Any, damage: list[str]) -> Iterator[Any]:
    """The frames that can be decoded; what is said of others is put into `damage`."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:  # nothing can be found after it
            damage.append(_reason(error))
            packet = None
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            damage.append(_reason(error))
            frames = []
        yield from frames
        if packet is None or (packet.dts is None and packet.size == 0):
            return


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__


def _by(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
