"""Splats whose file has another axis up: turned with rotations and harmonics, so that they look the same from there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from loading import load_splats
from scipy.spatial.transform import Rotation
from splat_clouds import FLOAT, FORMATS, SPLAT, SPZ, UPRIGHT, assert_same, cloud, expected_of

from sds3d.formats.base import UpAxis
from sds3d.formats.load import load_asset
from sds3d.geometry.splats import Splats, rotated, turned
from sds3d.rendering.splatting import rasterization_reference

STANDING = Rotation.from_euler("x", -90, degrees=True)
"""From +Z up with the front -Y to +Y up with the front +Z."""


def picture(splats: Splats, frame: Rotation = UPRIGHT) -> np.ndarray:
    """The picture (H, W, 4) of a camera that looks at the origin and is turned by `frame` about it."""
    view = np.eye(4)
    view[:3, :3] = (Rotation.from_euler("xyz", [200, 30, 10], degrees=True) * frame.inv()).as_matrix()
    view[2, 3] = 2.0
    arrays = (splats.means, splats.quats, splats.scales, splats.opacities, splats.sh, view[None])
    means, quats, scales, opacities, sh, views = (torch.tensor(array.astype(np.float64)) for array in arrays)
    intrinsics = torch.tensor([[[60.0, 0, 24], [0, 60, 24], [0, 0, 1]]], dtype=torch.float64)
    drawn = rasterization_reference(
        means, quats, scales, opacities, sh, views, intrinsics, 48, 48, sh_degree=splats.degree
    )
    return torch.cat([drawn[0], drawn[1]], dim=-1)[0].numpy()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_turned_cloud_looks_the_same_from_a_turned_camera(degree: int) -> None:
    splats = cloud(60, degree)
    for frame in (STANDING, Rotation.from_euler("xyz", [20, -70, 130], degrees=True)):
        moved = rotated(splats, frame.as_matrix())
        assert_same(moved, splats, FLOAT._replace(means=1e-6), frame)
        first, second = picture(splats), picture(moved, frame)
        np.testing.assert_allclose(second, first, atol=1e-5)
        assert np.abs(picture(moved) - first).max() > 0.1  # from the old camera it looks otherwise
        assert_same(rotated(moved, frame.inv().as_matrix()), splats, FLOAT._replace(means=1e-6, others=2e-6))


def test_half_a_turn_about_z_is_that_of_ply_files() -> None:
    splats = cloud(60)
    half = Rotation.from_euler("z", 180, degrees=True).as_matrix()
    assert_same(rotated(splats, half), turned(splats), FLOAT._replace(means=1e-6))
    with pytest.raises(ValueError, match="mirrored"):
        rotated(splats, np.diag([1.0, 1, -1]))


BOUNDS = {"ply": FLOAT, "splat": SPLAT, "spz": SPZ, "glb": FLOAT}


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("up", ["y", "z"])
def test_every_format_has_the_axis_up_that_is_asked_for(name: str, up: UpAxis, tmp_path: Path) -> None:
    splats = expected_of(name, cloud(40))
    # What lies in the file: our writers turn PLY and .splat by 180 degrees.
    inside = turned(splats) if name in ("ply", "splat") else splats
    path = tmp_path / f"a.{name}"
    path.write_bytes(FORMATS[name].write(splats))
    read = load_asset(path, up)
    assert isinstance(read, Splats)
    frame = STANDING if up == "z" else UPRIGHT
    moved = Splats(frame.apply(inside.means).astype(np.float32), *turns(inside, frame))
    bounds = BOUNDS[name]
    assert_same(read, moved, bounds._replace(means=bounds.means + 1e-6, others=5 * bounds.others))
    assert_same(load_splats(tmp_path, path.read_bytes(), path.name), splats, bounds)  # auto


def turns(splats: Splats, frame: Rotation) -> tuple[np.ndarray, ...]:
    """Rotations, scales, opacities and harmonics in another frame; checked against the renderer above."""
    moved = rotated(splats, frame.as_matrix())
    return moved.quats, moved.scales, moved.opacities, moved.sh
