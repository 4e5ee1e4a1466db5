"""Pictures as files: mp4 for video cameras, PNG for cameras that must lose nothing.

Frame k of a file that we encode is at k / fps seconds exactly, every second frame is a key frame
(so that any frame is reached by decoding two), and there are no frames out of order.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from headstart.types import Camera, Clip

TOLERANCE_S = 1e-4
"""LeRobot's: how far a frame may be from where its time stamp says [s]."""
_KEY_FRAME_INTERVAL = 2
_AHEAD_FRAMES = 32
"""Decoding on is cheaper than seeking for a frame that is nearer than this."""


def encode_mp4(pictures: Iterable[np.ndarray], camera: Camera, fps: int) -> bytes:
    """Pictures (H, W, 3) uint8 as an mp4 file of h264."""
    import av

    stream_of_bytes = io.BytesIO()
    with av.open(stream_of_bytes, "w", format="mp4") as container:
        options = {"g": str(_KEY_FRAME_INTERVAL), "bf": "0", "crf": "20", "preset": "veryfast"}
        stream: Any = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = camera.width, camera.height
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return stream_of_bytes.getvalue()


class VideoFile:
    """An mp4 file, opened for its facts and its frames.

    Args:
        content: where it is, or what is in it.
        where: its path, for messages.

    Raises:
        ValueError: it is no video, or damaged.
    """

    def __init__(self, content: Path | bytes, where: object) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self._where = where
        with _one_line(where):
            if isinstance(content, Path):
                _check_whole(content)
            source = io.BytesIO(content) if isinstance(content, bytes) else str(content)
            # Only mp4: other formats may name further files to be opened.
            self._container: Any = av.open(source, "r", format="mp4", metadata_errors="replace")
            if not self._container.streams.video:
                raise ValueError(f"{where}: has no video")
            self._stream: Any = self._container.streams.video[0]
            context: Any = self._stream.codec_context
            if context is None:
                raise ValueError(f"{where}: damaged, or of a codec that is not known here")
            self.codec: str = context.name.removeprefix("lib")
            self.pixel_format: str = context.pix_fmt or "unknown"
            self.height: int = context.height
            self.width: int = context.width
            # One for all frames: setting one up takes longer than to convert a small frame.
            self._converter = VideoReformatter()

    def times_s(self) -> np.ndarray:
        """(N,) float64: when each frame is shown, in order [s]; no frame is decoded."""
        with _one_line(self._where):
            ticks = [p.pts for p in self._container.demux(self._stream) if p.size]
            if any(tick is None for tick in ticks):
                raise ValueError(f"{self._where}: damaged: a frame has no time stamp")
            return np.sort(np.array(ticks, np.int64)) * float(self._stream.time_base)

    def frames(self, times_s: np.ndarray) -> np.ndarray:
        """The frames at these times, (n, H, W, 3) uint8 RGB.

        Raises:
            ValueError: no frame within ``TOLERANCE_S`` of a time, or the file is damaged.
        """
        found = np.empty((len(times_s), self.height, self.width, 3), np.uint8)
        order = np.argsort(times_s, kind="stable")
        with _one_line(self._where):
            decoder, current = iter(()), None
            for place in order.tolist():
                wanted = float(times_s[place])
                if current is None or wanted > current.time + self._seconds(_AHEAD_FRAMES):
                    decoder, current = self._decode_from(wanted), None
                while current is None or current.time < wanted - TOLERANCE_S:
                    current = next(decoder, None)
                    if current is None:
                        break
                if current is None or current.time is None or current.time > wanted + TOLERANCE_S:
                    raise ValueError(f"{self._where}: no frame at {wanted:.6f} s")
                rgb = self._converter.reformat(current, format="rgb24")
                found[place] = rgb.to_ndarray()
        return found

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _decode_from(self, time_s: float) -> Iterator[Any]:
        tick = int((time_s - TOLERANCE_S) / self._stream.time_base)
        self._container.seek(max(tick, 0), stream=self._stream, backward=True)
        return iter(self._container.decode(self._stream))

    def _seconds(self, num_frames: int) -> float:
        return num_frames / float(self._stream.average_rate or 30)


def check_clip(times_s: np.ndarray, clip: Clip, num_steps: int, fps: int, where: str) -> None:
    """Refuse a clip whose file does not have a frame for each step.

    Args:
        times_s: (N,) of all frames of the file, in order.
        where: which episode and camera, for messages.
    """
    wanted = clip.start_s + np.arange(num_steps) / fps
    right = np.searchsorted(times_s, wanted).clip(0, max(len(times_s) - 1, 0))
    left = (right - 1).clip(0)
    if len(times_s):
        off = np.minimum(np.abs(times_s[right] - wanted), np.abs(times_s[left] - wanted))
    else:
        off = np.full(num_steps, np.inf)
    missing = np.flatnonzero(off > TOLERANCE_S)
    if len(missing):
        raise ValueError(
            f"{where}: {clip.path} has no frame for {len(missing)} of {num_steps} steps, the first"
            f" at {wanted[missing[0]]:.6f} s; it has {len(times_s)} frames, and one is wanted every"
            f" 1/{fps} s"
        )


def encode_png(pictures: np.ndarray) -> list[bytes]:
    """A PNG file of each of (N, H, W, 3) uint8."""
    import av

    codec: Any = av.CodecContext.create("png", "w")
    codec.height, codec.width = pictures.shape[1:3]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1, 1)
    files = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts = number
        files += [bytes(packet) for packet in codec.encode(frame)]
    files += [bytes(packet) for packet in codec.encode(None)]
    return files


def decode_png(files: Sequence[bytes], camera: Camera, where: object) -> np.ndarray:
    """(n, H, W, 3) uint8 from PNG files.

    Raises:
        ValueError: one is damaged, or of another size.
    """
    import av

    pictures = np.empty((len(files), camera.height, camera.width, 3), np.uint8)
    with _one_line(where):
        for number, content in enumerate(files):
            # A decoder that has seen a picture would add the next one to it.
            codec: Any = av.CodecContext.create("png", "r")
            frames = [*codec.decode(av.Packet(content)), *codec.decode(None)]
            if not frames:
                raise ValueError(f"{where}: damaged: no picture")
            picture = frames[0].to_ndarray(format="rgb24")
            if picture.shape != pictures.shape[1:]:
                raise ValueError(f"{where}: damaged: a picture of {picture.shape[:2]} pixels")
            pictures[number] = picture
    return pictures


class Pictures(Mapping[str, "np.ndarray | Clip"]):
    """The pictures of an episode that was read: clips, and PNG files decoded when asked for."""

    def __init__(
        self,
        clips: Mapping[str, Clip],
        files: Mapping[str, Sequence[bytes]],
        cameras: Sequence[Camera],
        where: object,
    ) -> None:
        self._clips = clips
        self._files = files
        self._cameras = {camera.name: camera for camera in cameras}
        self._where = where

    def __getitem__(self, name: str) -> np.ndarray | Clip:
        if name in self._files:
            return decode_png(self._files[name], self._cameras[name], self._where)
        return self._clips[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)


def _check_whole(path: Path) -> None:
    """Refuse an mp4 file that was cut short, of which the decoder would read the rest.

    The file is a row of boxes that begin with their length in bytes and their kind; a length of 1
    stands for a longer number after the kind (ISO/IEC 14496-12, 4.2).
    """
    with path.open("rb") as file:
        total, start = file.seek(0, 2), 0
        while start + 16 <= total:
            file.seek(start)
            length, kind, long = struct.unpack(">I4sQ", file.read(16))
            length = long if length == 1 else length
            if kind in (b"moov", b"mdat") and start + length > total:
                raise EOFError(f"cut short: {total} bytes, {start + length} expected")
            if length < 8:  # 0: the rest of the file
                return
            start += length


@contextmanager
def _one_line(where: object) -> Iterator[None]:
    """Turns what the decoder raises into one line that names the file."""
    from av.error import FFmpegError

    # av raises the last four where a stream or a frame lacks what it expects.
    expected = (FFmpegError, OSError, EOFError, LookupError)
    expected += (AttributeError, TypeError, ArithmeticError, UnicodeError)
    try:
        yield
    except expected as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{where}: damaged: {text}") from None
