"""OBJ with MTL and textures: read by trimesh; and files of other programs."""

import io

import numpy as np
import pytest
import trimesh
from loading import MESHES, box, corners, load_mesh, same
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import SimpleMaterial

from sds3d.formats.load import load_asset
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


def corners_of(name: str) -> tuple[np.ndarray, Mesh]:
    """The lines of a file's faces as indices (F, 3, 2) of v and vt, from 0, and the mesh that is read."""
    mesh = load_asset(MESHES / name)
    assert isinstance(mesh, Mesh)
    lines = (MESHES / name).read_text(encoding="utf-8-sig").replace("\r", "\n").splitlines()
    faces = [line.split()[1:] for line in lines if line.startswith("f ")]
    return np.array([[[int(n) - 1 for n in corner.split("/")[:2]] for corner in face] for face in faces]), mesh


def column(name: str, key: str) -> np.ndarray:
    lines = (MESHES / name).read_text(encoding="utf-8-sig").replace("\r", "\n").splitlines()
    return np.array([[float(n) for n in line.split()[1:]] for line in lines if line.split(" ")[0] == key])


def test_uvs_without_a_material_stay_vertex_for_vertex():
    faces, mesh = corners_of("uv_no_mtl.obj")
    assert mesh.texture is None
    uv = column("uv_no_mtl.obj", "vt")[:, :2] * [1, -1] + [0, 1]
    np.testing.assert_allclose(corners(mesh, mesh.uv), uv[faces[:, :, 1]], atol=1e-6)


@pytest.mark.parametrize("name", ["options.obj", "nousemtl.obj", "case.obj"])
def test_pictures_are_found_as_other_programs_find_them(name):
    """A map with options; a single material that is not named; a name in upper case for a file in lower case."""
    faces, mesh = corners_of(name)
    picture = np.asarray(Image.open(MESHES / "red.png").convert("RGB"))
    np.testing.assert_array_equal(mesh.texture, picture)
    uv = column(name, "vt")[:, :2] * [1, -1] + [0, 1]
    np.testing.assert_allclose(corners(mesh, mesh.uv), uv[faces[:, :, 1]], atol=1e-6)


@pytest.mark.parametrize("name", ["bom.obj", "cr.obj"])
def test_a_byte_order_mark_and_old_line_ends_do_no_harm(name):
    faces, mesh = corners_of(name) if name != "bom.obj" else (None, load_asset(MESHES / name))
    assert isinstance(mesh, Mesh)
    assert len(mesh.faces) == 12
    assert mesh.volume() == pytest.approx(1)
    if faces is not None:
        np.testing.assert_allclose(corners(mesh, mesh.vertices), column(name, "v")[faces[:, :, 0]], atol=1e-6)


def test_options_scale_and_move_a_map_and_a_windows_path_counts_by_its_name(tmp_path):
    """`-s 2 4 -o 0.25 0` of (0.5, 0.25), v up, is (1.25, 1): the map repeats."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(tmp_path / "my map.png")
    obj = "mtllib a.mtl b.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nvt 0 0\nvt 0.5 0.25\nvt 0 0.25\n"
    obj += "usemtl one\nf 1/1 2/2 3/3\n"
    files = {
        "a.mtl": b"newmtl other\nKd 1 0 0\n",
        "b.mtl": b"newmtl one\nmap_Kd -mm 0 1 -s 2 4 -o 0.25 0 -bm 1 C:\\maps\\my map.png\n",
    }
    with pytest.warns(UserWarning, match="2 x 1 tiles"):
        mesh = load_mesh(tmp_path, {"a.obj": obj.encode(), **files}, "a.obj")
    moved = np.array([[0.25, 0], [1.25, 1], [0.25, 1]])
    np.testing.assert_allclose(mesh.uv, (moved * [1, -1] + [0, 1]) / [2, 1], atol=1e-6)


def test_two_materials_with_pictures_become_one_atlas(tmp_path):
    for name, color in (("red", (200, 10, 10)), ("blue", (10, 10, 200))):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{name}.png")
    obj = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    obj += "usemtl red\nf 1/1 2/2 3/3\nusemtl blue\nf 1/1 3/3 4/4\n"
    mtl = "newmtl red\nmap_Kd red.png\nKe 1 1 1\nnewmtl blue\nmap_Kd blue.png\nmap_Bump red.png\n"
    with pytest.warns(UserWarning, match="one atlas") as told:
        mesh = load_mesh(tmp_path, {"a.obj": obj.encode(), "a.mtl": mtl.encode()}, "a.obj")
    assert [str(warning.message) for warning in told] == [
        "2 materials have UVs of their own: they become one atlas, and the UVs are scaled into it",
        "left out of the mesh: bump maps, emission",
    ]
    middles = corners(mesh, mesh.uv).mean(axis=1)
    size = mesh.texture.shape[0]
    shown = [mesh.texture[int(v * size), int(u * size)].tolist() for u, v in middles]
    assert sorted(shown) == [[10, 10, 200], [200, 10, 10]]


def test_parts_without_uvs_are_unwrapped_and_the_others_keep_theirs(tmp_path):
    obj = "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 1 1\n"
    obj += "usemtl a\nf 1/1 2/2 3/3\nusemtl b\nf 1 3 4\nf 1 4 5\n"
    mtl = "newmtl a\nKd 1 0 0\nnewmtl b\nKd 0 0 1\n"
    with pytest.warns(UserWarning, match="1 of 2 parts have no UVs and are unwrapped"):
        mesh = load_mesh(tmp_path, {"a.obj": obj.encode(), "a.mtl": mtl.encode()}, "a.obj")
    twice = corners(mesh, mesh.uv)
    a, b, c = (twice[:, i] for i in range(3))
    areas = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    assert (areas > 1e-3).all()
    by_face = corners(mesh, mesh.colors).mean(axis=1)
    assert sorted(map(tuple, by_face.tolist())) == [(0, 0, 1), (0, 0, 1), (1, 0, 0)]


def test_an_asset_far_from_the_origin_keeps_its_detail():
    """A map's coordinates: in 32 bits, half the radius of 0.4 m would be lost."""
    with pytest.warns(UserWarning, match="far from the origin"):
        faces, mesh = corners_of("utm.obj")
    exact = column("utm.obj", "v")
    used = exact[np.unique(faces[:, :, 0])]
    shift = np.rint((used.min(axis=0) + used.max(axis=0)) / 2)
    np.testing.assert_allclose(corners(mesh, mesh.vertices), (exact - shift)[faces[:, :, 0]], atol=1e-6)


def test_each_part_has_its_own_vertices_alone(tmp_path):
    """A thousand materials on one square each: 4000 vertices, not a thousand times all."""
    count = 1000
    lines = ["mtllib a.mtl"]
    for i in range(count):
        lines += [f"v {i + x} {y} 0" for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    for i in range(count):
        lines += [f"usemtl m{i}", f"f {4 * i + 1} {4 * i + 2} {4 * i + 3} {4 * i + 4}"]
    mtl = "".join(f"newmtl m{i}\nKd {i / count} 0 0\n" for i in range(count))
    mesh = load_mesh(tmp_path, {"a.obj": "\n".join(lines).encode(), "a.mtl": mtl.encode()}, "a.obj")
    assert len(mesh.vertices) == 4 * count
    places, shades = corners(mesh, mesh.vertices)[..., 0].min(axis=1), corners(mesh, mesh.colors)[..., 0]
    np.testing.assert_allclose(shades, np.tile(places[:, None] / count, 3), atol=1e-5)


def test_a_vertex_has_other_coordinates_on_each_side_of_a_seam(tmp_path):
    """As the corner of a cube has: two triangles share an edge, whose ends have two places in the picture."""
    obj = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0.1 0.1\nvt 0.4 0.1\nvt 0.4 0.4\nvt 0.6 0.6\nvt 0.9 0.9\nvt 0.6 0.9\n"
    obj += "vn 0 0 1\nf 1/1/1 2/2/1 3/3/1\nf 1/4/1 3/5/1 4/6/1\n"
    mesh = load_mesh(tmp_path, obj.encode(), "a.obj")
    expected = np.array([[[0.1, 0.1], [0.4, 0.1], [0.4, 0.4]], [[0.6, 0.6], [0.9, 0.9], [0.6, 0.9]]]) * [1, -1] + [0, 1]
    np.testing.assert_allclose(corners(mesh, mesh.uv), expected, atol=1e-6)
    np.testing.assert_allclose(corners(mesh, mesh.vertices)[..., :2][1], [[0, 0], [1, 1], [0, 1]])
