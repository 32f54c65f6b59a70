"""Videos in and out, and two squares that are followed."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import av
import numpy as np
import pytest

from transnext.tasks.detection.answers import ObjectsFound
from transnext.tasks.detection.video import (
    following_threshold,
    is_video,
    read_frames,
    track,
    video_facts,
    video_writer,
    write_video,
)

SIZE = (97, 140)


def _boxes(frame: int) -> np.ndarray:
    """A square that goes right and one that goes up, past each other."""
    return np.array(
        [[3 + 3 * frame, 40, 23 + 3 * frame, 60], [70, 90 - 20 - 2 * frame, 90, 90 - 2 * frame]], np.float32
    )


def _frames(count: int) -> Iterator[np.ndarray]:
    for i in range(count):
        frame = np.full((*SIZE, 3), 90, np.uint8)
        for (x0, y0, x1, y1), colour in zip(_boxes(i).astype(int), ((220, 40, 40), (40, 60, 220)), strict=True):
            frame[y0:y1, x0:x1] = colour
        yield frame


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".MOV"])
def test_what_is_written_is_read(tmp_path, suffix) -> None:
    path = tmp_path / f"a{suffix}"
    write_video(path, _frames(20), 12.5)
    assert is_video(path)
    read = list(read_frames(path))
    assert len(read) == 20
    np.testing.assert_allclose([time for _, time in read], np.arange(20) / 12.5, atol=2e-3)
    for (frame, _), written in zip(read, _frames(20), strict=True):
        assert frame.dtype == np.uint8
        assert frame.shape == (98, 140, 3)
        assert np.abs(frame[:97].astype(int) - written).mean() < 6
    facts = video_facts(path)
    assert facts.size == (98, 140)
    assert facts.fps == pytest.approx(12.5, rel=0.01)
    assert facts.frames in (None, 20)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_frames_come_upright(tmp_path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, _frames(3), 25)
    turned = tmp_path / "turned.mov"
    with av.open(str(path)) as source, av.open(str(turned), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = bytearray(turned.read_bytes())
    matrix = b"".join(int(v).to_bytes(4, "big", signed=True) for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30))
    quarter = b"".join(int(v).to_bytes(4, "big", signed=True) for v in (0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))
    at = data.index(matrix, data.index(b"tkhd"))
    data[at : at + len(matrix)] = quarter
    turned.write_bytes(data)
    (plain, _), (upright, _) = next(read_frames(path)), next(read_frames(turned))
    np.testing.assert_array_equal(upright, np.rot90(plain, 3))  # players show it turned clockwise
    assert video_facts(turned).size == (140, 98)


def test_what_is_no_video_is_said_in_a_line(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.mp4"):
        next(read_frames(tmp_path / "nothing.mp4"))
    for name, content in (("empty.mp4", b""), ("noise.avi", bytes(range(256)) * 40), ("text.mkv", b"hello " * 99)):
        (tmp_path / name).write_bytes(content)
        for read in (read_frames, video_facts):
            with pytest.raises(ValueError, match=f"^cannot read video .*{name}: [^\n]+$"):
                list(read(tmp_path / name))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="no picture in it"):
        next(read_frames(tmp_path / "sound.mp4"))


def test_a_video_that_is_cut_off_or_damaged_is_read_as_far_as_it_goes(tmp_path, caplog) -> None:
    path = tmp_path / "a.mkv"
    rng = np.random.default_rng(0)
    write_video(path, (rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(60)), 25)
    data = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])
    assert 10 < len(list(read_frames(tmp_path / "cut.mkv"))) < 50
    damaged = bytearray(data)
    damaged[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (tmp_path / "damaged.mkv").write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert 5 < len(list(read_frames(tmp_path / "damaged.mkv"))) <= 60
    path = tmp_path / "a.mp4"
    write_video(path, _frames(20), 25)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:-700])  # without its index
    with pytest.raises(ValueError, match=r"cannot read video .*cut\.mp4"):
        next(read_frames(tmp_path / "cut.mp4"))


def test_a_video_is_written_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "a.mp4"
    with pytest.raises(ValueError, match="no frames"):
        write_video(path, [], 25)
    with pytest.raises(ValueError, match="140x96 pixels in a video of 140x97"):
        write_video(path, [next(_frames(1)), np.zeros((96, 140, 3), np.uint8)], 25)
    with pytest.raises(RuntimeError, match="stop"), video_writer(path, 25) as add:  # noqa: PT012
        add(next(_frames(1)))
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match=r"cannot write video .*a\.mp4: \S"):
        write_video(path, [np.zeros((2, 40_000, 3), np.uint8)], 25)
    with pytest.raises(ValueError, match="fps is 0"):
        write_video(path, _frames(2), 0)
    with pytest.raises(ValueError, match=r"a\.gif names no video that can be written: choose \.mp4"):
        write_video(tmp_path / "a.gif", _frames(2), 25)
    assert list(tmp_path.iterdir()) == []


def _answer(frame: int, scores: tuple[float, float] = (0.9, 0.8), seen: tuple[int, ...] = (0, 1)) -> ObjectsFound:
    found = ObjectsFound(
        xyxy=_boxes(frame),
        confidence=np.array(scores, np.float32),
        class_id=np.array([4, 2]),
        data={"class_name": np.array(["right", "up"])},
        name="a.mp4",
        size=SIZE,
        frame=frame,
        time=frame / 10,
    )
    return found[list(seen)]


def test_squares_keep_their_numbers() -> None:
    answers = list(track((_answer(i) for i in range(25)), fps=10, threshold=0.3))
    assert len(answers) == 25
    assert answers[0].tracker_id.tolist() == [-1, -1]
    numbers = {tuple(answer.tracker_id.tolist()) for answer in answers[1:]}
    assert len(numbers) == 1
    assert len(set(numbers.pop())) == 2
    for i, answer in enumerate(answers):
        assert isinstance(answer, ObjectsFound)
        assert answer == replace(_answer(i), tracker_id=answer.tracker_id)
        assert (answer.name, answer.frame, answer.time, answer.size) == ("a.mp4", i, i / 10, SIZE)
    assert answers[3].to_dict()["objects"][0]["track"] == answers[3].tracker_id[0]
    assert answers[0].to_dict()["objects"][0]["track"] is None


def test_known_objects_go_on_while_their_scores_are_low_and_others_do_not_begin() -> None:
    scores = [(0.9, 0.2)] * 4 + [(0.2, 0.2)] * 3 + [(0.9, 0.9)] * 3
    answers = list(track((_answer(i, s) for i, s in enumerate(scores)), fps=10, threshold=0.3))
    assert [len(answer) for answer in answers] == [1] * 7 + [2] * 3
    right = [answer.tracker_id[0] for answer in answers[1:]]
    assert len(set(right)) == 1
    assert answers[-1].tracker_id[1] not in (-1, right[0])
    assert following_threshold(0.3) == 0.15
    assert following_threshold(0.05) == 0.05


def test_an_object_out_of_sight_for_a_moment_keeps_its_number() -> None:
    seen = [(0, 1)] * 5 + [(1,)] * 3 + [()] * 2 + [(0, 1)] * 3
    answers = list(track((_answer(i, seen=s) for i, s in enumerate(seen)), fps=10, threshold=0.3))
    assert [len(answer) for answer in answers] == [len(s) for s in seen]
    assert answers[-1].tracker_id.tolist() == answers[2].tracker_id.tolist()


def test_an_object_out_of_sight_for_long_is_a_new_one() -> None:
    seen = [(0, 1)] * 5 + [(1,)] * 15 + [(0, 1)] * 3
    still = (replace(_answer(0), frame=i)[list(s)] for i, s in enumerate(seen))
    answers = list(track(still, fps=10, threshold=0.3))
    assert answers[-1].tracker_id[1] == answers[2].tracker_id[1]
    assert answers[-1].tracker_id[0] not in (-1, *answers[2].tracker_id)


def test_videos_are_told_by_their_names() -> None:
    assert is_video("a/B.MP4")
    assert not is_video("a.gif")
    assert not is_video("a.jpg")
    assert not is_video("mp4")
