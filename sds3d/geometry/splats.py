"""The cloud of 3D Gaussians that representations extract, and that formats read and write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.geometry.mesh import FloatArray, Mesh

SH_C0 = 0.5 / math.sqrt(math.pi)
"""The constant spherical harmonic: colour = 0.5 + SH_C0 sh[:, 0]."""
SMALLEST_SCALE = 1e-9
"""Metres. A Gaussian may be flat, but formats store logarithms of scales, and zero has none."""

# Signs of the harmonics, degree 0 to 3, when x and y change sign: -1 for the odd in x and y together.
_TURNED = np.array([1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1], np.float32)[:, None]


@dataclass(frozen=True)
class Splats:
    """N Gaussians in the world frame: right-handed, +Y up, front +Z, metres.

    means: (N, 3) float32, centres in metres.
    quats: (N, 4) float32, unit quaternions w, x, y, z; q and -q are one rotation.
    scales: (N, 3) float32, standard deviations along the axes of the rotation, in metres (not their logarithms).
    opacities: (N,) float32 in [0, 1] (not their logits).
    sh: (N, K, 3) float32, spherical-harmonic coefficients of the sRGB colour in the sign and order of 3D Gaussian
        splatting (Kerbl et al. 2023, arXiv:2308.04079), K = 1, 4, 9 or 16 for degree 0 to 3. The colour along the
        direction from the camera to the Gaussian is 0.5 + SH_C0 sh[:, 0] + ..., clipped at 0 from below.
    """

    means: FloatArray
    quats: FloatArray
    scales: FloatArray
    opacities: FloatArray
    sh: FloatArray

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Splats:
        """Return the Gaussians of a slice, at indices, or where a mask is true."""
        return Splats(self.means[rows], self.quats[rows], self.scales[rows], self.opacities[rows], self.sh[rows])

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return math.isqrt(self.sh.shape[1]) - 1

    def colors(self) -> FloatArray:
        """Return the colours (N, 3) float32, sRGB in [0, 1], without their dependence on the view."""
        return np.clip(0.5 + np.float32(SH_C0) * self.sh[:, 0], 0, 1)

    def checked(self) -> Splats:
        """Return the same Gaussians as float32, with unit quaternions and scales of at least SMALLEST_SCALE.

        A quaternion of length zero becomes the identity. Raises ValueError, in one line, if shapes do not fit together,
        if there are no Gaussians, or if some have NaN, an infinity, a negative scale or an opacity outside [0, 1].
        `without_invalid` leaves out such Gaussians.
        """
        splats = self._float32()
        for complaint, bad in splats._faults().items():
            if bad.any():
                raise ValueError(
                    f"{bad.sum()} of {len(splats)} Gaussians, first number {bad.argmax()}, have {complaint}"
                )
        if not len(splats):
            raise ValueError("there are no Gaussians")
        length = np.sqrt(np.einsum("ij,ij->i", splats.quats, splats.quats, dtype=np.float64))
        still = length < 1e-30  # below that, float32 holds too few digits for a direction
        length[np.abs(length - 1) < 1e-6] = 1  # checking twice changes nothing
        quats = splats.quats / np.where(still, 1, length).astype(np.float32)[:, None]
        quats[still] = [1, 0, 0, 0]
        scales = np.maximum(splats.scales, np.float32(SMALLEST_SCALE))
        return Splats(splats.means, quats, scales, splats.opacities, splats.sh)

    def without_invalid(self) -> tuple[Splats, int]:
        """Return the Gaussians that `checked` accepts, and how many were left out. Raises ValueError for shapes."""
        splats = self._float32()
        bad = np.any(list(splats._faults().values()), axis=0)
        return splats[~bad] if bad.any() else splats, int(bad.sum())

    def _float32(self) -> Splats:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes an infinity, which is reported
            means, quats, scales, opacities, sh = (
                np.asarray(array, dtype=np.float32)
                for array in (self.means, self.quats, self.scales, self.opacities, self.sh)
            )
        n = len(means) if means.ndim else 0
        shapes = {"means": (means, (n, 3)), "quats": (quats, (n, 4)), "scales": (scales, (n, 3))}
        for name, (array, shape) in {**shapes, "opacities": (opacities, (n,))}.items():
            if array.shape != shape:
                raise ValueError(f"{name} must be {shape} for {n} Gaussians, got {array.shape}")
        if sh.shape not in [(n, k, 3) for k in (1, 4, 9, 16)]:
            raise ValueError(f"sh must be ({n}, K, 3) with K one of 1, 4, 9 and 16, got {sh.shape}")
        return Splats(means, quats, scales, opacities, sh)

    def _faults(self) -> dict[str, NDArray[Any]]:
        """Return the complaints of `checked`, each with a mask (N,) of the Gaussians that it concerns."""
        infinite = np.zeros(len(self), np.bool_)
        for array in (self.means, self.quats, self.scales, self.opacities, self.sh):
            infinite |= ~np.isfinite(array).all(axis=tuple(range(1, array.ndim)))
        negative = np.any(self.scales < 0, axis=1)
        outside = (self.opacities < 0) | (self.opacities > 1)
        return {
            "NaN or infinite values": infinite,
            "negative scales: scales are metres, not logarithms": negative,
            "opacities outside [0, 1]: opacities are not logits": outside,
        }


def turned(splats: Splats) -> Splats:
    """Return the Gaussians turned by 180 degrees about Z, so that +Y becomes down. `sh` is copied.

    This converts from the world frame to the usual frame of PLY and .splat files, and back. Positions, rotations and
    harmonics are turned. Turning twice gives the same quaternions with the opposite sign.
    """
    w, x, y, z = splats.quats.T
    return Splats(
        splats.means * np.array([-1, -1, 1], np.float32),
        np.stack([-z, -y, x, w], axis=1),  # (0, 0, 0, 1) times the quaternion
        splats.scales,
        splats.opacities,
        splats.sh * _TURNED[: splats.sh.shape[1]],
    )


def harmonics(degree: int, x: Any, y: Any, z: Any) -> list[Any]:
    """Return the real spherical harmonics of degree 1 to `degree`, at most 3, in the order of `Splats.sh`.

    x, y, z: arrays or tensors of one shape, the coordinates of unit vectors. The results have that shape.
    """
    basis: list[Any] = []
    if degree >= 1:
        basis += [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
        if degree >= 3:
            basis += [
                -0.5900435899266435 * y * (3 * xx - yy),
                2.890611442640554 * x * y * z,
                -0.4570457994644658 * y * (4 * zz - xx - yy),
                0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
                -0.4570457994644658 * x * (4 * zz - xx - yy),
                1.445305721320277 * z * (xx - yy),
                -0.5900435899266435 * x * (xx - 3 * yy),
            ]
    return basis


def rotated(splats: Splats, rotation: NDArray[np.float64]) -> Splats:
    """Return the Gaussians turned about the origin by a matrix (3, 3): positions, rotations and harmonics.

    Raises ValueError for a matrix that is no rotation.
    """
    from scipy.spatial.transform import Rotation

    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5) or np.linalg.det(rotation) < 0:
        raise ValueError("splats can be turned, but not sheared or mirrored")
    quats = Rotation.from_matrix(rotation) * Rotation.from_quat(splats.quats[:, [1, 2, 3, 0]].astype(np.float64))
    sh = splats.sh
    if splats.degree:
        turn = _harmonics_turn(splats.degree, rotation)
        sh = np.concatenate([sh[:, :1], np.einsum("ij,njc->nic", turn, sh[:, 1:])], axis=1)
    return Splats(
        (splats.means.astype(np.float64) @ rotation.T).astype(np.float32),
        quats.as_quat()[:, [3, 0, 1, 2]].astype(np.float32),
        splats.scales,
        splats.opacities,
        sh.astype(np.float32),
    )


def _harmonics_turn(degree: int, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (K - 1, K - 1) that turns the coefficients above the constant one.

    The turned function has along each direction d the value of the old one along the direction that d comes from. The
    harmonics span both, so that values along enough directions give the matrix.
    """
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    new = np.stack(harmonics(degree, *directions.T), axis=1)
    old = np.stack(harmonics(degree, *(directions @ rotation).T), axis=1)
    return np.linalg.lstsq(new, old)[0].round(12)  # without the last digits, which differ between machines


Geometry = Mesh | Splats
"""The content of a file of ours or of another program; a representation can start from it."""
