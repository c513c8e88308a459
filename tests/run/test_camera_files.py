"""Lists of pictures with their cameras, against pictures that were drawn from those cameras."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sds3d.cameras import Cameras, orbit
from sds3d.config import ConfigError
from sds3d.formats.pictures import to_uint8
from sds3d.geometry.mesh import Mesh
from sds3d.rendering.shading import shade_mesh
from sds3d.run.camera_files import RADIUS, read_cameras
from sds3d.run.reference_config import ReferenceConfig
from sds3d.run.reference_pictures import MASK, read_view
from sds3d.toybox.objects import build as build_object
from sds3d.toybox.world import Spec
from tests.run.tiny_runs import tiny

AZIMUTHS = (20.0, 95.0, 200.0, 310.0)
Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # from +Y up: (x, y, z) -> (x, -z, y)
MOVED, TIMES = np.array([3.0, -2.0, 5.0]), 4.0


def drawn(folder: Path, mesh: Mesh, cameras: Cameras) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(len(cameras)):
        rgb, alpha = shade_mesh(mesh, cameras[i : i + 1], (0, 0, 0))
        layers = np.concatenate([rgb / np.maximum(alpha, 1e-3), alpha], axis=-1)[0]
        Image.fromarray(to_uint8(layers.astype(np.float32))).save(folder / f"r_{i}.png")


def scene(folder: Path, **changes: Any) -> Mesh:
    """Write a folder as Blender's script of NeRF does: +Z up, the object large and away from the origin."""
    mesh = build_object(Spec("chair", "red"), np.random.default_rng(0))
    cameras = orbit(AZIMUTHS, 25.0, 2.4, 35.0, size=96)
    drawn(folder, mesh, cameras)
    poses = cameras.c2w().numpy().astype(float)
    poses[:, :3, 3] = TIMES * poses[:, :3, 3] + MOVED
    frames = [
        {"file_path": f"./r_{i}", "rotation": 0.1, "transform_matrix": (Z_UP @ pose).tolist()}
        for i, pose in enumerate(poses)
    ]
    values = {"camera_angle_x": math.radians(35), "frames": frames} | changes
    (folder / "transforms.json").write_text(json.dumps(values))
    return mesh


def masks(pictures: list[dict[str, Any]], mesh: Mesh) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the mask of each picture, and that of the object from its camera."""
    pairs = []
    for picture in pictures:
        view = read_view(ReferenceConfig(**picture), "", 2.1, 30.0)
        size = len(view.layers)
        pairs.append(
            (view.layers[..., MASK][..., 0], shade_mesh(mesh, view.camera.resized(size, size), (0, 0, 0))[1][0, ..., 0])
        )
    return pairs


def at_the_origin(mesh: Mesh, pictures: list[dict[str, Any]]) -> Mesh:
    """Return the mesh where its first two cameras say that it is: they had a distance of 2.4."""
    first = np.array(pictures[0]["pose"])
    cameras = orbit(AZIMUTHS, 25.0, 2.4, 35.0).c2w().numpy()
    both = [np.array(pictures[i]["pose"])[:3, 3] for i in (0, 2)], [cameras[i, :3, 3] for i in (0, 2)]
    scale = np.linalg.norm(both[0][0] - both[0][1]) / np.linalg.norm(both[1][0] - both[1][1])
    offset = first[:3, 3] - scale * cameras[0, :3, 3]
    return replace(mesh, vertices=(scale * mesh.vertices + offset).astype(np.float32))


def test_transforms_become_our_cameras(tmp_path: Path) -> None:
    mesh = scene(tmp_path / "chair")
    pictures = read_cameras(tmp_path / "chair")
    assert [picture["fovy"] for picture in pictures] == pytest.approx(4 * [35])
    assert {picture["every"] for picture in pictures} == {1}
    for picture, camera in zip(pictures, orbit(AZIMUTHS, 25.0, 2.4, 35.0).c2w().numpy(), strict=True):
        assert np.allclose(np.array(picture["pose"])[:3, :3], camera[:3, :3], atol=1e-6)
    placed = at_the_origin(mesh, pictures)
    # What the cameras see is what the pictures show, and the object is round the origin.
    for given, seen in masks(pictures, placed):
        assert np.abs(given - seen).mean() < 0.004
    radius = np.linalg.norm(placed.vertices, axis=-1).max()
    assert radius == pytest.approx(RADIUS, rel=0.06)
    assert np.linalg.norm(placed.vertices.max(0) + placed.vertices.min(0)) / 2 < 0.06
    tiny(reference=pictures)


def test_the_front_is_turned_to_plus_z(tmp_path: Path) -> None:
    scene(tmp_path / "chair")
    plain, turned = (read_cameras(tmp_path / "chair", front) for front in (0.0, 90.0))
    for before, after in zip(plain, turned, strict=True):
        one, other = (read_view(ReferenceConfig(**picture), "", 2.1, 30.0).camera for picture in (before, after))
        assert float(other.azimuth - one.azimuth) % 360 == pytest.approx(270, abs=0.01)
        assert float(other.elevation) == pytest.approx(float(one.elevation), abs=0.01)


def test_intrinsics_of_nerfstudio_give_the_same_cameras(tmp_path: Path) -> None:
    """Focal length in pixels of pictures of twice the size, and a principal point."""
    scene(tmp_path / "a")
    focal = 96 / math.tan(math.radians(17.5))
    intrinsics = {"fl_x": focal, "fl_y": focal, "w": 192, "h": 192, "cx": 96, "cy": 96, "camera_model": "OPENCV"}
    scene(tmp_path / "b", **intrinsics)
    ours, theirs = read_cameras(tmp_path / "a"), read_cameras(tmp_path / "b")
    for one, other in zip(ours, theirs, strict=True):
        assert other["fovy"] == pytest.approx(one["fovy"])
        assert np.allclose(one["pose"], other["pose"])
        assert other["center"] == [0.5, 0.5]


def test_our_own_file(tmp_path: Path) -> None:
    pictures = [{"image": f"{i}.png", "azimuth": 10 * i, "elevation": 5} for i in range(9)]
    for name, text in (("cameras.yaml", yaml.safe_dump), ("cameras.json", json.dumps)):
        (tmp_path / name).write_text(text({"pictures": pictures}))
        read = read_cameras(tmp_path)
        assert [picture["image"] for picture in read] == [str(tmp_path.resolve() / f"{i}.png") for i in range(9)]
        assert {picture["every"] for picture in read} == {3}  # three or so a step
        assert tiny(reference=read).reference[3].azimuth == 30
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", "", "no file with cameras: give it cameras.yaml"),
        ("cameras.yaml", "[1, 2]", "not a mapping"),
        ("cameras.yaml", "pictures: 3", "has no list of pictures"),
        ("cameras.yaml", "pictures: [{image: ../a.png}]", "outside of the folder"),
        ("cameras.yaml", "pictures: []", "lists 0 pictures"),
        ("transforms.json", "{", "cannot be read"),
        ("transforms.json", "[]", "has no list of frames"),
        ("transforms.json", '{"frames": [{}]}', "frame 0: 'file_path' is missing"),
        ("transforms.json", '{"frames": [{"file_path": "a.png"}]}', "frame 0: a.png: there is no such file"),
        ("transforms.json", '{"frames": [{"file_path": "b.png"}]}', "frame 0: the field of view is missing"),
        ("transforms.json", '{"fl_x": 9, "frames": [{"file_path": "b.png"}]}', "'transform_matrix' is missing"),
        ("transforms.json", '{"camera_model": "OPENCV_FISHEYE", "frames": [{"file_path": "b"}]}', "FISHEYE are not"),
        (
            "transforms.json",
            '{"fl_x": 9, "frames": [{"file_path": "b.png", "transform_matrix": [[1, 2], [3, 4]]}]}',
            "no matrix of 4 x 4",
        ),
        ("cameras.yaml", 'pictures: [{image: "a\\0b.png"}]', "is no file's name"),
        ("cameras.yaml", f"pictures: [{', '.join(300 * ['{image: a}'])}]", "lists 300 pictures: give 1 to 256"),
        ("transforms.json", json.dumps({"frames": 300 * [{}]}), "lists 300 pictures: give 1 to 256"),
        ("transforms.json", '{"frames": [{"file_path": "a\\u0000b.png"}]}', "is no file's name"),
        (
            "transforms.json",
            '{"fl_x": 9, "w": 0, "frames": [{"file_path": "b.png"}]}',
            "frame 0: w = 0: give a number above 0",
        ),
        (
            "transforms.json",
            '{"fl_x": 9, "h": NaN, "frames": [{"file_path": "b.png"}]}',
            "h = nan: give a number above 0",
        ),
        (
            "transforms.json",
            '{"fl_x": 9, "cx": Infinity, "frames": [{"file_path": "b.png"}]}',
            "cx = inf: give a number",
        ),
        ("transforms.json", '{"fl_x": 9, "cy": 99, "frames": [{"file_path": "b.png"}]}', "cx and cy are far outside"),
        (
            "transforms.json",
            f'{{"fl_x": {10**400}, "frames": [{{"file_path": "b.png"}}]}}',
            "fl_x = 10000000000000000000: ",
        ),
        ("transforms.json", '{"fl_x": "9", "frames": [{"file_path": "b.png"}]}', "fl_x = 9: give a number above 0"),
        ("transforms.json", '{"fl_x": 1e-9, "frames": [{"file_path": "b.png"}]}', "the field of view is 180 degrees"),
        ("transforms.json", '{"camera_angle_x": 7, "frames": [{"file_path": "b.png"}]}', "in radians below pi"),
        (
            "transforms.json",
            '{"fl_x": 9, "w": 8, "h": 16, "frames": [{"file_path": "b.png"}]}',
            "w and h are 8 x 16, but the picture has 8 x 8",
        ),
        (
            "transforms.json",
            f'{{"fl_x": 9, "frames": [{{"file_path": "b.png", "transform_matrix": [[{10**400}, 2], [3, 4]]}}]}}',
            "no matrix of 4 x 4",
        ),
    ],
)
def test_files_that_cannot_be_used_give_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 2:6] = 255
    Image.fromarray(pixels).save(tmp_path / "b.png")
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        read_cameras(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("of_a_frame", [False, True])
def test_distortion_is_warned_of(tmp_path: Path, of_a_frame: bool) -> None:
    scene(tmp_path, k1=0.1)
    if of_a_frame:
        values = json.loads((tmp_path / "transforms.json").read_text())
        values["frames"][2]["k1"] = values.pop("k1")
        (tmp_path / "transforms.json").write_text(json.dumps(values))
    with pytest.warns(UserWarning, match="distortion"):
        read_cameras(tmp_path)


def listed(folder: Path, size: tuple[int, int], box: tuple[int, int, int, int], **values: Any) -> list[dict[str, Any]]:
    """Return the reading of four cameras that see the origin on their axes. size: of their pictures, width and height.

    box: left, top, right and bottom of the white object on black.
    """
    picture = Image.new("L", size)
    picture.paste(255, box)
    exif = Image.Exif()
    exif[0x0112] = values.pop("orientation", 1)
    picture.save(folder / "a.png", exif=exif)
    poses = Z_UP @ orbit([0.0, 90.0, 180.0, 270.0], 30.0, 2.0).c2w().numpy().astype(float)
    frames = [{"file_path": "a.png", "transform_matrix": pose.tolist()} for pose in poses]
    (folder / "transforms.json").write_text(json.dumps({**values, "frames": frames}))
    return read_cameras(folder)


def test_without_a_size_intrinsics_are_in_pixels_of_the_file(tmp_path: Path) -> None:
    """Pictures are read at 2048 pixels at most, and turned as their EXIF data say."""
    box = (1000, 300, 1200, 500)
    picture = listed(tmp_path, (2400, 800), box, fl_x=3000, cx=600, cy=200)[0]
    assert picture["fovy"] == pytest.approx(2 * math.degrees(math.atan(400 / 3000)))
    assert picture["center"] == pytest.approx([0.25, 0.25])
    picture = listed(tmp_path, (2400, 800), box, fl_x=3000, cx=600, cy=600, orientation=6)[0]
    assert picture["fovy"] == pytest.approx(2 * math.degrees(math.atan(1200 / 3000)))
    assert picture["center"] == pytest.approx([0.75, 0.25])
    # One side alone is enough.
    picture = listed(tmp_path, (2400, 800), box, fl_x=3000, w=4800)[0]
    assert picture["fovy"] == pytest.approx(2 * math.degrees(math.atan(800 / 3000)))


def test_an_object_on_the_axes_of_large_pictures_stays_there(tmp_path: Path) -> None:
    """The middle of the object is at (256.5, 256.5) in pixels, where the axes are, so that it is the origin."""
    pictures = listed(tmp_path, (512, 512), (192, 192, 321, 321), fl_x=700, cx=256.5, cy=256.5)
    for picture, camera in zip(pictures, orbit([0.0, 90.0, 180.0, 270.0], 30.0, 2.0).c2w().numpy(), strict=True):
        place = np.array(picture["pose"])[:3, 3]
        assert np.allclose(place / np.linalg.norm(place), camera[:3, 2], atol=1e-6)


def test_the_front_is_for_transforms_alone(tmp_path: Path) -> None:
    (tmp_path / "cameras.yaml").write_text("pictures: [{image: a.png, azimuth: 0, elevation: 0}]")
    with pytest.raises(ConfigError, match=r"--front is for transforms\.json alone"):
        read_cameras(tmp_path, 90)
