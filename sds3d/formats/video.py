"""Turntable videos as H.264 in MP4, which every browser plays."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from sds3d.formats.pictures import to_uint8
from sds3d.geometry.mesh import FloatArray


def turntable_mp4(frames: FloatArray, fps: int = 30) -> bytes:
    """Return frames (T, H, W, 3) in [0, 1] as an MP4 file: H.264, 4:2:0, BT.709, index first for streaming.

    Use the frames of `sds3d.cameras.turntable(T)`: the last one is a step before the first, so that a looping player
    shows no stop. Odd heights and widths, which 4:2:0 cannot hold, are padded by repeating the last row or column.
    Raises ValueError for frames of another shape, RuntimeError if the encoder fails, OSError for a full disk.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(f"frames must have shape (T, H, W, 3), got {frames.shape}")
    pixels = to_uint8(frames)
    pixels = np.pad(pixels, ((0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2), (0, 0)), mode="edge")
    _, height, width, _ = pixels.shape
    # ffmpeg moves the index of an MP4 to the front in a second pass, which a pipe does not allow.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turntable.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
        command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-pix_fmt", "yuv420p"]
        command += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
        # With one thread and no build stamps, the same frames give the same bytes.
        command += ["-c:v", "libx264", "-crf", "18", "-preset", "medium", "-threads", "1"]
        command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", str(path)]
        done = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=False)
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            if "No space left" in message:
                raise OSError(errno.ENOSPC, f"No space left for the turntable video in {tempfile.gettempdir()}")
            raise RuntimeError(f"ffmpeg could not encode the turntable: {message}")
        return path.read_bytes()
