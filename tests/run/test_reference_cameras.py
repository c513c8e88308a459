"""The camera of a picture is found, and corrected, by comparing renders with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from sds3d.cameras import Cameras, orbit
from sds3d.config import build
from sds3d.formats.pictures import to_uint8
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.shading import shade_mesh
from sds3d.representations.base import Scene, Start
from sds3d.representations.contents import source_of
from sds3d.representations.make import make_scene
from sds3d.representations.mesh_scene import MeshConfig
from sds3d.run.config import new_run, unsought_pictures
from sds3d.run.reference_cameras import MOST_ASIDE, MOST_AWAY, SIZE, Place, placed, refine, search, unlikeness
from sds3d.run.reference_config import ReferenceConfig
from sds3d.run.reference_pictures import read_view
from sds3d.run.references import References
from sds3d.toybox.objects import build as build_object
from sds3d.toybox.world import Spec
from tests.run.tiny_runs import finish, same, tiny


def scene_of(mesh: Mesh) -> Scene:
    config = build(MeshConfig, {"geometry": {"name": "fixed"}, "appearance": "texels"})
    return make_scene(config, Start(torch.Generator().manual_seed(0), 10, before=source_of(mesh)))


def picture_of(mesh: Mesh, camera: Cameras, path: Path) -> str:
    rgb, alpha = shade_mesh(mesh, camera, (0, 0, 0))
    layers = np.concatenate([rgb / np.maximum(alpha, 1e-3), alpha], axis=-1)[0]
    Image.fromarray(to_uint8(layers)).save(path)
    return str(path)


def apart(a: float, b: float) -> float:
    """Return the angle between two azimuths."""
    return abs((a - b + 180) % 360 - 180)


def toy(kind: str, seed: int) -> Mesh:
    return build_object(Spec(kind, "red"), np.random.default_rng(seed))


@pytest.mark.parametrize(("kind", "azimuth", "elevation"), [("chair", 130.0, 25.0), ("duck", 220.0, 10.0)])
def test_a_camera_is_found_from_any_side(tmp_path: Path, kind: str, azimuth: float, elevation: float) -> None:
    """The scene is another object of the kind, and the picture is off centre and of another size."""
    mesh = toy(kind, 0)
    image = picture_of(mesh, orbit([azimuth], elevation, 3.0, 40.0, size=96), tmp_path / "a.png")
    layers = np.pad(np.asarray(Image.open(image)), ((20, 0), (0, 50), (0, 0)))
    Image.fromarray(layers).save(image)
    view = read_view(build(ReferenceConfig, {"image": image}), "", 2.1, 30.0)
    found = References([build(ReferenceConfig, {"image": image})], [view])
    found.find(scene_of(toy(kind, 1)))
    camera = found.cameras(SIZE)
    assert apart(float(camera.azimuth), azimuth) < 12
    assert abs(float(camera.elevation) - elevation) < 12


def test_the_object_gets_the_size_and_the_place_that_it_has_in_the_picture(tmp_path: Path) -> None:
    """By a zoom: a picture that is cut to the object tells nothing of the distance."""
    mesh = toy("chair", 0)
    config = build(ReferenceConfig, {"image": picture_of(mesh, orbit([40.0], 20.0, 3.0, size=96), tmp_path / "a.png")})
    view, scene = read_view(config, "", 2.1, 30.0), scene_of(mesh)
    found = References([config], [view])
    found.find(scene)
    camera = found.cameras(SIZE)
    assert float(camera.distance) == pytest.approx(2.1)
    alpha = scene.portray(camera, torch.ones(3)).alpha[..., 0].detach()
    given = functional.interpolate(torch.from_numpy(view.layers[None, None, ..., 3]), (SIZE, SIZE), mode="area")[0]
    assert float(alpha.sum() / given.sum()) == pytest.approx(1, abs=0.08)
    axis = torch.arange(SIZE, dtype=torch.float32)
    for dim in (1, 2):  # the middles of both masks
        ours, theirs = ((each.sum(dim) @ axis / each.sum()).item() for each in (alpha, given))
        assert ours == pytest.approx(theirs, abs=0.5)


def test_a_change_turns_zooms_and_moves() -> None:
    camera = orbit([30.0], 10.0, 2.0, 40.0)
    changes = torch.tensor([[15.0, 5.0, 0.2, 0.25, -0.5]])
    for zoom in (True, False):
        changed = Place(camera, torch.tensor([zoom])).changed(changes, 32)
        assert (float(changed.azimuth), float(changed.elevation)) == pytest.approx((45, 15))
        tangent = math.tan(math.radians(float(changed.fovy)) / 2)
        assert tangent == pytest.approx(math.tan(math.radians(20)) * (math.exp(0.2) if zoom else 1), rel=1e-5)
        assert float(changed.distance) == pytest.approx(2.0 if zoom else 2 * math.exp(0.2))
        seen = changed.opencv_viewmats()[0] @ torch.tensor([0.0, 0, 0, 1])  # the origin, x right, y down, z forward
        assert (seen[:2] / seen[2] / tangent).tolist() == pytest.approx([0.25, -0.5], abs=1e-5)


def test_a_rough_camera_is_corrected(tmp_path: Path) -> None:
    mesh = toy("chair", 0)
    image = picture_of(mesh, orbit([40.0], 20.0, size=96), tmp_path / "a.png")
    rough = {"image": image, "azimuth": 52.0, "elevation": 10.0, "distance": 2.3, "fovy": 30.0, "refine": True}
    config = build(ReferenceConfig, rough)
    found, scene = References([config], [read_view(config, "", 2.1, 30.0)]), scene_of(mesh)
    for _ in range(20):
        found.correct(scene)
    camera = found.cameras(48)
    assert float(camera.azimuth) == pytest.approx(40, abs=1.5)
    assert float(camera.elevation) == pytest.approx(20, abs=1.5)
    assert float(camera.distance) == pytest.approx(2.1, rel=0.03)
    # One that is known stays.
    known = build(ReferenceConfig, {**rough, "refine": False})
    fixed = References([known], [read_view(known, "", 2.1, 30.0)])
    fixed.correct(scene)
    assert float(fixed.cameras(48).azimuth) == 52


def test_cameras_are_corrected_once_the_scene_has_its_shape(tmp_path: Path) -> None:
    """From 40 % of the steps on, then also at the start of later stages, and after a pause."""
    image = picture_of(toy("chair", 0), orbit([40.0], 20.0, size=48), tmp_path / "a.png")
    rough = {"image": image, "azimuth": 55.0, "elevation": 20.0, "distance": 2.1, "fovy": 30.0, "refine": True}
    config = build(ReferenceConfig, rough)
    view, scene = read_view(config, "", 2.1, 30.0), scene_of(toy("chair", 0))
    found, stream = References([config], [view]), torch.Generator().manual_seed(0)
    for step, progress in ((0, 0.0), (5, 0.2), (10, 0.39)):
        found.losses(scene, step, progress, 16, stream)
        assert not found.changes.any()
    found.losses(scene, 15, 0.45, 16, stream)
    assert float(found.cameras(16).azimuth) == pytest.approx(55 - 7.5)
    later = References([config], [view])
    later.load_state_dict(found.state_dict())
    later.losses(scene, 0, 0.0, 16, stream)
    assert float(later.cameras(16).azimuth) == pytest.approx(40)


def test_a_known_camera_stays_beside_one_that_is_found(tmp_path: Path) -> None:
    """Also one that looks straight down, and one of a pose."""
    image = picture_of(toy("chair", 0), orbit([40.0], 20.0, size=48), tmp_path / "a.png")
    pose = orbit([0.0], 0.0, 2.5).c2w()[0]
    pose[0, 3] = 0.2
    given = (
        {"azimuth": 30.0, "elevation": 90.0, "distance": 2.0, "fovy": 40.0},
        {"pose": pose.tolist(), "fovy": 40.0},
        {},
    )
    configs = [build(ReferenceConfig, {"image": image, **camera}) for camera in given]
    views = [read_view(config, "", 2.1, 30.0) for config in configs]
    found = References(configs, views)
    found.find(scene_of(toy("chair", 1)))
    assert found.changes[2].any()
    cameras = found.cameras(16)
    for i in (0, 1):
        for name in ("azimuth", "elevation", "distance", "fovy"):
            assert torch.equal(getattr(cameras, name)[i], getattr(views[i].camera, name)[0])
        assert torch.equal(cameras.c2w()[i], views[i].camera.c2w()[0])
    assert not torch.equal(cameras.c2w()[2], views[2].camera.c2w()[0])


def test_changes_of_a_camera_are_bounded(tmp_path: Path) -> None:
    """The scene is empty, so that nothing tells how large it is."""
    scene = scene_of(toy("chair", 0))
    place, empty = Place(orbit([0.0], 0.0), torch.tensor([False])), torch.zeros(1, SIZE, SIZE, 9)
    changes, pace = torch.zeros(5), torch.tensor(1.0)
    for _ in range(12):
        changes, pace = refine(scene, place, empty, changes, pace, aligned=False)
    assert changes[2].abs() <= MOST_AWAY
    assert place.changed(torch.tensor([[0.0, 500.0, 0.0, 0.0, 0.0]]), 8).elevation.item() == 89
    angles = search(unlikeness(scene, place, empty), torch.device("cpu"))
    found = placed(scene, place, empty, angles)
    assert torch.equal(found[:2], angles)
    assert found[2].abs() <= MOST_AWAY
    assert found[3:].abs().max() <= MOST_ASIDE


def test_a_run_that_seeks_a_camera_ends_bit_identical_after_a_pause(tmp_path: Path) -> None:
    image = picture_of(toy("chair", 0), orbit([40.0], 20.0, size=32), tmp_path / "a.png")
    config = tiny(reference=[{"image": image}])
    straight, paused = new_run(tmp_path / "a", config), new_run(tmp_path / "b", config)
    finish(straight)
    assert "a.png: its camera was found at azimuth " in (straight.folder / "run.log").read_text()
    events = [set(event["losses"]) for event in straight.events()]
    assert ["reference_mask" in losses for losses in events] == 5 * [False] + 7 * [True]  # from 40 % of the steps on
    for stop in (3, 7):
        finish(paused, stop=stop)
    finish(paused)
    assert same(straight, paused)


def test_a_single_step_that_finds_no_camera_is_warned_of(tmp_path: Path) -> None:
    image = picture_of(toy("chair", 0), orbit([40.0], 20.0, size=32), tmp_path / "a.png")
    run = new_run(tmp_path / "a", tiny(steps=1, reference=[{"image": image}]))
    with pytest.warns(UserWarning, match=r"reference\.0: it takes two steps to find a camera.*: give more steps"):
        finish(run)
    known = {"image": image, "azimuth": 0, "elevation": 0}
    assert unsought_pictures(tiny(steps=1, reference=[known])) == []
    assert unsought_pictures(tiny(steps=3, stages=[{}, {}], reference=[{"image": image}])) == []


def test_a_camera_that_was_found_holds_in_all_stages(tmp_path: Path) -> None:
    image = picture_of(toy("chair", 0), orbit([40.0], 20.0, size=32), tmp_path / "a.png")
    config = tiny(steps=3, stages=[{}, {}], reference=[{"image": image}])
    straight, paused = new_run(tmp_path / "a", config), new_run(tmp_path / "b", config)
    for run in (straight, paused):
        finish(run, stop=4 if run is paused else None)
    finish(paused)
    assert same(straight, paused)
    assert ["reference_mask" in event["losses"] for event in straight.events()] == [False, *(5 * [True])]
