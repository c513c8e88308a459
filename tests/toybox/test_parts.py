import numpy as np
import pytest

from sds3d.toybox.paint import apart
from sds3d.toybox.parts import bent
from sds3d.toybox.shapes import box, ellipsoid
from sds3d.toybox.world import COLORS


def test_normals_of_a_bent_shape_fit_its_new_form() -> None:
    ball = ellipsoid(1.0, rings=24, segments=48)
    factors = np.array([2.0, 1.0, 0.5])
    stretched = bent(ball, ball.vertices * factors)
    wanted = ball.vertices / factors
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert (stretched.normals * wanted).sum(axis=1).min() > np.cos(np.deg2rad(15))


def test_a_bent_shape_keeps_its_creases() -> None:
    cube = box(1, 1, 1)
    np.testing.assert_allclose(bent(cube, cube.vertices).normals, cube.normals, atol=1e-12)


@pytest.mark.parametrize("ground", COLORS)
def test_an_accent_of_any_colour_stands_apart_from_its_ground(ground: str) -> None:
    for color in COLORS:
        shown = apart(COLORS[color], COLORS[ground])
        assert np.linalg.norm(np.subtract(shown, COLORS[ground])) > 0.11
        if color != ground:
            assert shown == COLORS[color]
