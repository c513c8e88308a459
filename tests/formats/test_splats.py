"""Gaussians as arrays: validation, and the rotation about Z."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from splat_clouds import FLOAT, RDF, UPRIGHT, Y_DOWN, assert_same, cloud, spoilt

from sds3d.geometry.splats import Splats, turned


def test_positions_rotations_and_colours_are_rotated_together():
    """The frame of a PLY is the world frame turned by 180 degrees about Z. The comparison detects other turns."""
    splats = cloud()
    assert_same(turned(splats), splats, FLOAT, Y_DOWN)
    assert_same(turned(turned(splats)), splats, FLOAT)
    for frame in (UPRIGHT, RDF, Y_DOWN * RDF, Rotation.from_euler("z", 90, degrees=True)):
        with pytest.raises(AssertionError):
            assert_same(replace(turned(splats), means=frame.apply(splats.means)), splats, FLOAT, frame)


def test_shapes_are_checked():
    splats = cloud(5)
    wrong = {
        "means": splats.means[:, :2],
        "quats": splats.quats[:4],
        "scales": splats.scales[:, 0],
        "opacities": splats.opacities[:, None],
        "sh": splats.sh[:, :5],
    }
    for name, array in wrong.items():
        with pytest.raises(ValueError, match=f"^{name} must be"):
            replace(splats, **{name: array}).checked()
        with pytest.raises(ValueError, match=f"^{name} must be"):
            replace(splats, **{name: array}).without_invalid()


def test_without_invalid_keeps_the_rest():
    splats = spoilt(1, means=np.nan, opacities=2.0)
    splats.scales[4] = -1
    kept, dropped = splats.without_invalid()
    assert dropped == 2
    np.testing.assert_array_equal(kept.means, cloud(5).means[[0, 2, 3]])
    assert len(kept.checked()) == 3
    assert cloud(5).without_invalid()[1] == 0


def test_float64_and_lists_are_accepted():
    splats = cloud(5)
    arrays: list[Any] = [splats.means, splats.quats, splats.scales, splats.opacities, splats.sh]
    lists = Splats(*(array.tolist() for array in arrays))
    assert_same(lists.checked(), splats, FLOAT)
    wide = Splats(*(array.astype(np.float64) for array in arrays))
    assert_same(wide.checked(), splats, FLOAT)
    assert wide.checked().means.dtype == np.float32
    with pytest.raises(ValueError, match="NaN or infinite"):
        replace(wide, means=wide.means * 1e300).checked()
