"""Turntable videos, decoded again."""

import imageio.v3 as iio
import numpy as np
import pytest

from sds3d.formats.video import turntable_mp4


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47)])
def test_a_video_decodes_to_its_frames(height, width, tmp_path):
    ramp = np.linspace(0.1, 0.9, 12)
    frames = np.broadcast_to(ramp[:, None, None, None], (12, height, width, 3)).copy()
    frames[..., 2] = 0.5
    path = tmp_path / "turntable.mp4"
    path.write_bytes(turntable_mp4(frames, fps=24))
    decoded = iio.imread(path, plugin="FFMPEG")
    assert decoded.shape == (12, height + height % 2, width + width % 2, 3)
    assert iio.immeta(path, plugin="FFMPEG")["fps"] == 24
    assert iio.immeta(path, plugin="FFMPEG")["codec"] == "h264"
    assert iio.immeta(path, plugin="FFMPEG")["pix_fmt"].startswith("yuv420p")
    np.testing.assert_allclose(decoded[:, 4, 4] / 255, frames[:, 4, 4], atol=0.03)


def test_a_video_starts_with_its_index():
    """Browsers can play a file while it loads only if `moov` comes before `mdat`."""
    frames = np.broadcast_to(np.float32([0, 1])[:, None, None, None], (2, 32, 32, 3))
    data = turntable_mp4(frames)
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert data == turntable_mp4(frames)


def test_a_video_refuses_other_shapes():
    with pytest.raises(ValueError, match="shape"):
        turntable_mp4(np.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match="shape"):
        turntable_mp4(np.zeros((0, 8, 8, 3)))
