import pytest

from sds3d.toybox.shapes import Shape, box, ellipsoid
from sds3d.toybox.world import CATEGORIES
from tests.toybox.coplanar import coplanar, shapes_of

WALL = box(1.0, 1.0, 1.0).paint((1, 0, 0))
PLATE = box(0.4, 0.2, 0.1).paint((0, 0, 1))


def test_a_plate_flush_with_a_wall_is_found_with_its_area() -> None:
    (found,) = coplanar([WALL, PLATE.move(0.1, 0.0, 0.45)])
    assert (found.first, found.second) == (0, 1)
    assert found.area == pytest.approx(0.4 * 0.2)
    assert found.normal == (0, 0, 1)
    assert found.place[2] == pytest.approx(0.5)


def test_faces_that_overlap_in_part_count_with_the_common_area() -> None:
    (found,) = coplanar([WALL, PLATE.move(0.4, 0.45, 0.45)])  # a quarter of its width and of its height is outside
    assert found.area == pytest.approx(0.3 * 0.15)


@pytest.mark.parametrize(
    "second",
    [
        PLATE.move(0, 0, 0.452),  # 2 mm before the wall
        PLATE.move(0, 0, 0.55),  # on the wall, back to front
        PLATE.move(0.75, 0, 0.45),  # beside the wall
        PLATE.move(0, 0, 0.45).paint((1, 0, 0)),  # of the wall's colour
        PLATE.rotate("x", 5).move(0, 0, 0.45),  # through the wall at an angle
        ellipsoid(0.501).paint((0, 0, 1)),
    ],
    ids=["before", "against", "beside", "of one colour", "at an angle", "ball"],
)
def test_other_faces_are_fine(second: Shape) -> None:
    assert coplanar([WALL, second]) == []


def test_what_lies_inside_a_third_shape_is_not_seen() -> None:
    flush = [WALL, PLATE.move(0, 0, 0.45)]
    assert coplanar(flush)
    assert coplanar([*flush, box(0.6, 0.6, 0.6).move(0, 0, 0.5).paint((0, 1, 0))]) == []


@pytest.mark.parametrize("category", CATEGORIES[16:])
def test_no_face_of_an_object_flickers(category: str) -> None:
    """The kinds of the first world stay as its prior learnt them: a house's door and a robot's feet end flush below."""
    assert [overlap for seed in range(3) for overlap in coplanar(shapes_of(category, seed))] == []
