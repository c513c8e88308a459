"""OBJ with MTL and textures: read by trimesh; and files of other programs."""

import io

import numpy as np
import pytest
import trimesh
from loading import box, corners, load_mesh, same
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import SimpleMaterial

from sds3d.formats.obj import to_obj
from sds3d.geometry.mesh import Mesh


def same_triangles(loaded: trimesh.Trimesh, mesh: Mesh, **tolerance: float) -> None:
    """The triangles have the same order, winding and positions, however a reader numbers its vertices."""
    np.testing.assert_allclose(loaded.vertices[loaded.faces], mesh.vertices[mesh.faces], **tolerance)


def test_an_obj_reads_back_in_trimesh(textured, tmp_path):
    for file, data in to_obj(textured, "mug").items():
        (tmp_path / file).write_bytes(data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mug.mtl", "mug.obj", "mug.png"]
    loaded = trimesh.load(tmp_path / "mug.obj", force="mesh", process=False)
    same_triangles(loaded, textured, atol=1e-6)
    np.testing.assert_allclose(
        loaded.visual.uv[loaded.faces], (textured.uv * [1, -1] + [0, 1])[textured.faces], atol=1e-6
    )
    np.testing.assert_array_equal(np.asarray(loaded.visual.material.image.convert("RGB")), textured.texture)


def test_obj_texture_coordinates_run_up_from_the_bottom_row():
    """The top row of the picture, v = 0 in glTF, is vt = 1 in OBJ."""
    square = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32),
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        uv=np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32),
        texture=np.zeros((2, 2, 3), np.uint8),
    )
    lines = to_obj(square)["asset.obj"].decode().splitlines()
    assert [line for line in lines if line.startswith("vt")] == ["vt 0 0", "vt 1 0", "vt 1 1", "vt 0 1"]
    assert [line for line in lines if line.startswith("f ")] == ["f 1/1 2/2 3/3", "f 1/1 3/3 4/4"]


def test_an_obj_without_texture_carries_vertex_colours(colored):
    files = to_obj(colored)
    assert sorted(files) == ["asset.mtl", "asset.obj"]
    loaded = trimesh.load(io.BytesIO(files["asset.obj"]), file_type="obj", force="mesh", process=False)
    same_triangles(loaded, colored, atol=1e-6)
    np.testing.assert_allclose(
        loaded.visual.vertex_colors[loaded.faces][..., :3] / 255, colored.colors[colored.faces], atol=1 / 255
    )


def test_the_texture_of_every_format_is_the_same_picture(textured):
    picture = np.asarray(Image.open(io.BytesIO(to_obj(textured)["asset.png"])))
    np.testing.assert_array_equal(picture, textured.texture)


def test_an_obj_with_two_materials(tmp_path):
    """Kd is a part's colour, quads become triangles, and Windows line endings make no difference."""
    obj = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nusemtl red\nf 1 2 3 4\nusemtl blue\nf 1 3 5\n"
    mtl = "newmtl red\nKd 1 0 0\nPr 0.25\nPm 1\nnewmtl blue\nKd 0 0 1\nPr 0.25\n"
    for end in ("\n", "\r\n"):
        files = {"a.obj": obj.replace("\n", end).encode(), "a.mtl": mtl.replace("\n", end).encode()}
        read = load_mesh(tmp_path, files, "a.obj")
        assert len(read.faces) == 3
        by_face = corners(read, read.colors).mean(axis=1)
        assert sorted(map(tuple, by_face.tolist())) == [(0, 0, 1), (1, 0, 0), (1, 0, 0)]
        assert read.roughness == pytest.approx(0.25)
        assert read.metallic == pytest.approx(2 / 3)


def test_simple_materials_of_trimesh_are_understood(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    shape = box()
    shape.visual = TextureVisuals(shape.vertices[:, :2] + 0.5, SimpleMaterial(image=Image.fromarray(picture)))
    obj, files = trimesh.exchange.obj.export_obj(shape, return_texture=True)
    read = load_mesh(tmp_path, {"a.obj": obj.encode(), **files}, "a.obj")
    np.testing.assert_array_equal(read.texture, picture)
    same(read, Mesh(shape.vertices.astype(np.float32), shape.faces.astype(np.int32)), atol=1e-5)


@pytest.mark.parametrize("way", ["../secret", "{folder}/secret", "link"])
def test_nothing_outside_the_folder_is_read(way, textured_ball, tmp_path):
    inside = tmp_path / "asset"
    inside.mkdir()
    files = to_obj(textured_ball, "secret")
    for ending in ("mtl", "png"):
        (tmp_path / f"secret.{ending}").write_bytes(files[f"secret.{ending}"])
        (inside / f"link.{ending}").symlink_to(tmp_path / f"secret.{ending}")
    (inside / "own.mtl").write_text(f"newmtl secret\nKd 1 1 1\nmap_Kd {way.format(folder=tmp_path)}.png\n")
    for library in (f"{way.format(folder=tmp_path)}.mtl", "own.mtl"):
        obj = files["secret.obj"].replace(b"mtllib secret.mtl", f"mtllib {library}".encode())
        with pytest.warns(UserWarning, match=r"outside the asset's folder"):
            read = load_mesh(inside, obj, "a.obj")
        same(read, textured_ball)
        assert read.texture is None
        assert read.metallic_roughness is None


def test_textures_in_subfolders_are_read_and_missing_ones_are_reported(textured_ball, tmp_path):
    files = to_obj(textured_ball, "a")
    (tmp_path / "maps").mkdir()
    for name in ("a.png", "a_roughness.png", "a_metallic.png"):
        (tmp_path / "maps" / name).write_bytes(files.pop(name))
    mtl = files["a.mtl"]
    for word in (b"map_Kd ", b"map_Pr ", b"map_Pm "):
        files["a.mtl"] = files["a.mtl"].replace(word, word + b"maps\\")
    read = load_mesh(tmp_path, files, "a.obj")
    np.testing.assert_array_equal(read.texture, textured_ball.texture)
    with pytest.warns(UserWarning, match="is missing in the asset.s folder") as caught:
        assert load_mesh(tmp_path, {**files, "a.mtl": mtl}, "a.obj").texture is None
    assert [str(warning.message).split()[0] for warning in caught] == ["a.png", "a_roughness.png", "a_metallic.png"]
