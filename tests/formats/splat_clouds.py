"""Clouds of Gaussians, the precision of each format, and comparisons across frames."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from sds3d.formats.splat import from_splat, to_splat
from sds3d.formats.splat_glb import from_splat_glb, to_splat_glb
from sds3d.formats.splat_ply import from_splat_ply, to_splat_ply
from sds3d.formats.spz import from_spz, to_spz
from sds3d.geometry.splats import SH_C0, Splats
from sds3d.rendering.splatting import spherical_harmonics

UPRIGHT = Rotation.identity()
Y_DOWN = Rotation.from_euler("z", 180, degrees=True)  # from the world frame to that of PLY and .splat
RDF = Rotation.from_euler("x", 180, degrees=True)  # from x right, y up, z back to x right, y down, z forward


class Bounds(NamedTuple):
    """The largest errors of a format: metres, degrees, fraction of the scale, opacity, harmonics (constant, others)."""

    means: float
    angle: float
    scales: float
    opacities: float
    constant: float
    others: float


FLOAT = Bounds(0, 1e-4, 3e-6, 1e-6, 1e-6, 1e-6)
SPLAT = Bounds(0, 1.0, 0, 0.501 / 255, 0.501 / 255 / SH_C0, 0)
THEIR_SPLAT = SPLAT._replace(angle=1.9, scales=1e-6)  # splat-transform reads 127.5 as a quaternion's zero, not 128
SPZ = Bounds(0.501 / 2**16, 0.29, np.exp(0.501 / 16) - 1, 0.501 / 255, 0.501 / 255 / 0.15, 0.501 / 128)


class Format(NamedTuple):
    write: Callable[[Splats], bytes]
    read: Callable[[bytes], Splats]
    bounds: Bounds


FORMATS = {
    "ply": Format(to_splat_ply, from_splat_ply, FLOAT),
    "compact.ply": Format(lambda splats: to_splat_ply(splats, compact=True), from_splat_ply, FLOAT),
    "splat": Format(to_splat, from_splat, SPLAT),
    "spz": Format(to_spz, from_spz, SPZ),
    "glb": Format(to_splat_glb, from_splat_glb, FLOAT),
}
every_format = pytest.mark.parametrize("name", FORMATS)


def cloud(n: int = 100, degree: int = 3, seed: int = 0) -> Splats:
    """Needles and plates in all directions, with colours in [0, 1] from straight ahead."""
    rng = np.random.default_rng(seed)
    sh = rng.uniform(-0.5, 0.5, (n, (degree + 1) ** 2, 3))
    sh[:, 0] = rng.uniform(-1.7, 1.7, (n, 3))
    arrays = (
        rng.uniform(-0.5, 0.5, (n, 3)),
        rng.normal(size=(n, 4)),
        np.exp(rng.uniform(-6, -2.5, (n, 3))),
        rng.uniform(0.02, 1, n),
        sh,
    )
    return Splats(*(array.astype(np.float32) for array in arrays)).checked()


def by_importance(splats: Splats) -> Splats:
    """The order of .splat files."""
    volume = splats.scales.prod(axis=1, dtype=np.float64)
    return splats[np.argsort(-splats.opacities.astype(np.float64) * volume, kind="stable")]


def expected_of(name: str, splats: Splats) -> Splats:
    """The expected content of a file: .splat sorts, and has no harmonics above the constant one."""
    splats = splats.checked()
    return by_importance(replace(splats, sh=splats.sh[:, :1])) if name == "splat" else splats


def rotations(splats: Splats) -> Rotation:
    return Rotation.from_quat(splats.quats[:, [1, 2, 3, 0]].astype(np.float64))


def shade(sh: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Colours (D, N, 3) of harmonics (N, K, 3) along unit directions (D, 3), by the renderer's own function."""
    degree = round(sh.shape[1] ** 0.5) - 1
    spread = torch.tensor(directions)[:, None].expand(-1, len(sh), -1)
    return spherical_harmonics(degree, spread, torch.tensor(sh.astype(np.float64))).numpy()


def assert_same(read: Splats, splats: Splats, bounds: Bounds, frame: Rotation = UPRIGHT) -> None:
    """`read` equals `splats` within the bounds. frame: the rotation from the world frame to the frame of `read`."""
    assert len(read) == len(splats)
    np.testing.assert_allclose(read.means, frame.apply(splats.means), rtol=1e-6, atol=bounds.means)
    # A half turn about one of its axes leaves a Gaussian the same, and some programs apply it.
    difference = rotations(read).inv() * (frame * rotations(splats))
    angles = np.rad2deg([(difference * half_turn).magnitude() for half_turn in Rotation.from_quat(np.eye(4))])
    assert angles.min(axis=0).max() <= bounds.angle
    np.testing.assert_allclose(read.scales, splats.scales, rtol=bounds.scales, atol=0)
    np.testing.assert_allclose(read.opacities, splats.opacities, rtol=0, atol=bounds.opacities)
    np.testing.assert_allclose(read.sh[:, 0], splats.sh[:, 0], rtol=1e-6, atol=bounds.constant)
    if frame is UPRIGHT:  # bands that are zero may be left out
        sh = np.zeros((len(splats), max(read.sh.shape[1], splats.sh.shape[1]), 3))
        padded = sh.copy()
        padded[:, : read.sh.shape[1]], sh[:, : splats.sh.shape[1]] = read.sh, splats.sh
        np.testing.assert_allclose(padded[:, 1:], sh[:, 1:], rtol=1e-6, atol=bounds.others)
    else:  # compare the colours of a turned cloud along turned directions; 15 harmonics sum to at most 15 / sqrt(4 pi)
        directions = np.random.default_rng(0).normal(size=(20, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        expected, got = shade(splats.sh, directions), shade(read.sh, frame.apply(directions))
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 + bounds.constant + 4.3 * bounds.others)


def read_table(csv: bytes) -> Splats:
    """The Gaussians of a table that splat-transform prints, in its frame, by the formulas of 3DGS."""
    table = np.genfromtxt(io.BytesIO(csv), delimiter=",", names=True)
    names = table.dtype.names or ()

    def columns(prefix: str, count: int) -> np.ndarray:
        return np.stack([table[f"{prefix}_{i}"] for i in range(count)], axis=-1)

    rest = sum(name.startswith("f_rest_") for name in names) // 3
    sh = np.concatenate(
        [columns("f_dc", 3)[:, None], columns("f_rest", 3 * rest).reshape(-1, 3, rest).transpose(0, 2, 1)]
        if rest
        else [columns("f_dc", 3)[:, None]],
        axis=1,
    )
    quats = columns("rot", 4)
    arrays = (
        np.stack([table["x"], table["y"], table["z"]], axis=-1),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.exp(columns("scale", 3)),
        1 / (1 + np.exp(-table["opacity"])),
        sh,
    )
    return Splats(*(array.astype(np.float32) for array in arrays))


def spoilt(row: int, **values: float) -> Splats:
    splats = replace(cloud(5), **{name: getattr(cloud(5), name).copy() for name in values})
    for name, value in values.items():
        getattr(splats, name)[row] = value
    return splats


def one_line(error: pytest.ExceptionInfo[ValueError]) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 300
