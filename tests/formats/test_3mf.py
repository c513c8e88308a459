"""3MF files read: our own, those of the consortium's library, and packages by the letter of the specification."""

import io
import zipfile
from pathlib import Path

import lib3mf
import numpy as np
import pytest
from gltf_files import silence
from loading import load_mesh, same

from sds3d.files import zipped
from sds3d.formats.export import asset_files
from sds3d.formats.load import AssetError, load_asset
from sds3d.geometry.mesh import Mesh

SPACE = "http://schemas.microsoft.com/3dmanufacturing"
RELATIONSHIPS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="a" '
    f'Target="/3D/my.model" Type="{SPACE}/2013/01/3dmodel"/></Relationships>'
)
CORNERS = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0)]
FACES = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]
VERTICES = "".join(f'<vertex x="{x}" y="{y}" z="{z}"/>' for x, y, z in CORNERS)
TRIANGLES = "".join(f'<triangle v1="{a}" v2="{b}" v3="{c}"/>' for a, b, c in FACES)
SOLID = f"<mesh><vertices>{VERTICES}</vertices><triangles>{TRIANGLES}</triangles></mesh>"


def package(resources: str, build: str, root: str = 'unit="meter"', **others: str) -> bytes:
    spaces = f'xmlns="{SPACE}/core/2015/02" xmlns:m="{SPACE}/material/2015/02" xmlns:p="{SPACE}/production/2015/06"'
    model = f"<model {spaces} {root}><resources>{resources}</resources><build>{build}</build></model>"
    files = {"_rels/.rels": RELATIONSHIPS, "3D/my.model": model, **others}
    return zipped({name: text.encode() for name, text in files.items()})


def read(folder: Path, data: bytes, *told: str) -> Mesh:
    """The mesh in the frame of the file, and whether loading says exactly what is expected."""
    (folder / "a.3mf").write_bytes(data)
    with silence() as caught:
        mesh = load_asset(folder / "a.3mf", up_axis="y")
    assert [str(warning.message) for warning in caught] == list(told)
    assert isinstance(mesh, Mesh)
    return mesh


def test_our_own_file_comes_back_standing_and_in_metres(textured, tmp_path):
    data = asset_files(["3mf"], "a", textured, print_size=80)["a.3mf"]
    with pytest.warns(UserWarning, match=r"\+Z is up in files of this format"):
        mesh = load_mesh(tmp_path, data, "a.3mf")
    low, high = textured.vertices.min(axis=0), textured.vertices.max(axis=0)
    foot = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    expected = (textured.vertices - foot) * (0.08 / (high - low).max())
    np.testing.assert_allclose(mesh.vertices[mesh.faces], expected[textured.faces], atol=1e-6)
    assert mesh.volume() > 0


def theirs(folder: Path, unit: lib3mf.ModelUnit) -> bytes:
    """A file of lib3mf: a tetrahedron with a colour per triangle, built alone and twice as an assembly."""
    wrapper = lib3mf.get_wrapper()
    model = wrapper.CreateModel()
    assert model is not None
    model.SetUnit(unit)
    solid = model.AddMeshObject()
    positions = [lib3mf.Position((lib3mf.ctypes.c_float * 3)(*corner)) for corner in CORNERS]
    solid.SetGeometry(positions, [lib3mf.Triangle((lib3mf.ctypes.c_uint32 * 3)(*face)) for face in FACES])
    group = model.AddColorGroup()
    numbers = [group.AddColor(wrapper.RGBAToColor(50 * i, 10, 255 - i, 255)) for i in range(4)]
    for i, number in enumerate(numbers):
        corners = (lib3mf.ctypes.c_uint32 * 3)(number, number, number)
        solid.SetTriangleProperties(i, lib3mf.TriangleProperties(group.GetUniqueResourceID(), corners))
    solid.SetObjectLevelProperty(group.GetUniqueResourceID(), numbers[0])
    pair = model.AddComponentsObject()
    pair.AddComponent(solid, wrapper.GetTranslationTransform(10, 0, 0))
    pair.AddComponent(solid, wrapper.GetScaleTransform(2, 1, 1))
    model.AddBuildItem(solid, wrapper.GetIdentityTransform())
    model.AddBuildItem(pair, wrapper.GetTranslationTransform(0, 0, 100))
    model.QueryWriter("3mf").WriteToFile(str(folder / "theirs.3mf"))
    return (folder / "theirs.3mf").read_bytes()


@pytest.mark.parametrize(("unit", "metres"), [("Inch", 0.0254), ("MicroMeter", 1e-6), ("Foot", 0.3048)])
def test_a_file_of_the_consortiums_library_with_components_units_and_colours(unit, metres, tmp_path):
    mesh = read(tmp_path, theirs(tmp_path, getattr(lib3mf.ModelUnit, unit)))
    one = np.array(CORNERS)[np.array(FACES)]
    expected = np.concatenate([one, one + np.array([10, 0, 100]), one * [2, 1, 1] + np.array([0, 0, 100])]) * metres
    np.testing.assert_allclose(mesh.vertices[mesh.faces], expected, rtol=1e-6, atol=1e-12)
    colors = np.array([[50 * i, 10, 255 - i] for i in range(4)]) / 255
    assert mesh.colors is not None
    np.testing.assert_allclose(mesh.colors[mesh.faces], np.tile(np.repeat(colors, 3, axis=0), (3, 1)).reshape(12, 3, 3))


def test_transforms_multiply_rows_and_mirrors_keep_the_outside_out(tmp_path):
    turn = "0 1 0 -1 0 0 0 0 1 5 0 0"  # +X becomes +Y, +Y becomes -X, then 5 along X
    assembly = f'<object id="2"><components><component objectid="1" transform="{turn}"/></components></object>'
    item = '<item objectid="2" transform="1 0 0 0 1 0 0 0 -1 0 7 0"/>'
    mesh = read(tmp_path, package(f'<object id="1">{SOLID}</object>{assembly}', item))
    expected = np.array([[5 - y, x + 7, -z] for x, y, z in CORNERS])
    np.testing.assert_allclose(np.sort(mesh.vertices, axis=0), np.sort(expected, axis=0), atol=1e-6)
    assert mesh.volume() == pytest.approx(1)
    assert mesh.colors is None


def test_objects_in_other_files_of_the_package(tmp_path):
    part = f'<model xmlns="{SPACE}/core/2015/02"><resources><object id="1">{SOLID}</object></resources></model>'
    part_item = '<component p:path="/3D/Objects/PART.model" objectid="1" transform="2 0 0 0 2 0 0 0 2 0 0 0"/>'
    data = package(
        f'<object id="9"><components>{part_item}</components></object>',
        '<item objectid="9"/>',
        'unit="centimeter" requiredextensions="p"',
        **{"3D/Objects/part.model": part},
    )
    assert read(tmp_path, data).volume() == pytest.approx(8e-6)


def test_colours_come_from_the_corner_the_triangle_or_the_object(tmp_path):
    palette = (
        '<basematerials id="5"><base name="a" displaycolor="#FF0000"/><base name="b" displaycolor="#00FF0080"/>'
        '</basematerials><m:colorgroup id="6"><m:color color="#0000FF"/><m:color color="#FFFFFF"/></m:colorgroup>'
    )
    triangles = (
        '<triangle v1="0" v2="2" v3="1"/><triangle v1="0" v2="1" v3="3" p1="0"/>'
        '<triangle v1="0" v2="3" v3="2" pid="6" p1="0" p2="1" p3="0"/>'
    )
    solid = f"<mesh><vertices>{VERTICES}</vertices><triangles>{triangles}</triangles></mesh>"
    mesh = read(
        tmp_path, package(f'{palette}<object id="1" pid="5" pindex="1">{solid}</object>', '<item objectid="1"/>')
    )
    red, green, blue, white = [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]
    assert mesh.colors is not None
    np.testing.assert_array_equal(mesh.colors[mesh.faces], [[green] * 3, [red] * 3, [blue, white, blue]])


def test_what_is_left_out_is_named(tmp_path):
    textures = '<m:texture2d id="3" path="/a.png" contenttype="image/png"/><m:texture2dgroup id="4" texid="3"/>'
    support = f'<object id="2" type="support">{SOLID}</object>'
    lattice = f'<b:beamlattice xmlns:b="{SPACE}/beamlattice/2017/02"/>'
    solid = SOLID.replace("</mesh>", f"{lattice}</mesh>")
    data = package(
        f'{textures}<object id="1" pid="4" pindex="0">{solid}</object>{support}',
        '<item objectid="1"/><item objectid="2"/>',
    )
    told = f"left out of the mesh: textures, what {SPACE}/beamlattice/2017/02 adds, supports and helpers"
    mesh = read(tmp_path, data, told)
    same(mesh, Mesh(np.array(CORNERS, np.float32), np.array(FACES, np.int32)))


def doubled(levels: int) -> bytes:
    """Objects that each hold the one before twice: a small file of 2^levels parts."""
    objects = f'<object id="0">{SOLID}</object>'
    for i in range(levels):
        objects += f'<object id="{i + 1}"><components>' + f'<component objectid="{i}"/>' * 2 + "</components></object>"
    return package(objects, f'<item objectid="{levels}"/>')


ONE = f'<object id="1">{SOLID}</object>'
LOOP = '<object id="1"><components><component objectid="1"/></components></object>'
BOMB = '<!DOCTYPE model [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
WRONG = {
    "beyond": (package(ONE.replace('v3="3"', 'v3="4"'), '<item objectid="1"/>'), "a vertex that does not exist"),
    "absent": (package(ONE, '<item objectid="2"/>'), "builds object 2, which it lacks"),
    "empty": (package(ONE, ""), "no triangles"),
    "loop": (package(LOOP, '<item objectid="1"/>'), "contain themselves"),
    "doubled": (doubled(40), "more than 50000000 vertices"),
    "unit": (package(ONE, '<item objectid="1"/>', 'unit="parsec"'), "unknown unit 'parsec'"),
    "required": (
        package(ONE, "", 'requiredextensions="x" xmlns:x="urn:volumes"'),
        "requires the extension urn:volumes",
    ),
    "number": (package(ONE.replace('x="1.0"', 'x="one"'), '<item objectid="1"/>'), "could not convert string"),
    "nan": (package(ONE.replace('x="1.0"', 'x="nan"'), '<item objectid="1"/>'), "NaN or infinite"),
    "colour": (package('<m:colorgroup id="1"><m:color color="red"/></m:colorgroup>', ""), "the colour 'red'"),
    "transform": (package(ONE, '<item objectid="1" transform="1 0 0"/>'), "malformed"),
    "xml": (zipped({"_rels/.rels": RELATIONSHIPS.encode(), "3D/my.model": b"<model"}), "malformed"),
    "entities": (
        zipped({"_rels/.rels": RELATIONSHIPS.encode(), "3D/my.model": f"{BOMB}<model/>".encode()}),
        "document type",
    ),
    "no start": (zipped({"3D/my.model": b"<model/>"}), "lacks its part _rels/.rels"),
    "large": (zipped({"_rels/.rels": RELATIONSHIPS.encode(), "3D/my.model": bytes((1 << 29) // 64)}), "malformed"),
    "cut": (package(ONE, '<item objectid="1"/>')[:-30], "zip file"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_damaged_and_hostile_files_are_refused_in_one_line(wrong, tmp_path):
    data, message = WRONG[wrong]
    with pytest.raises(AssetError, match=message) as error:
        read(tmp_path, data)
    assert "\n" not in str(error.value)


def test_a_package_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path):
    data = bytearray(package(ONE, '<item objectid="1"/>'))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = archive.getinfo("3D/my.model").file_size
    at = data.rindex(b"PK\x01\x02")  # the directory's entry of the model, which is the last
    assert data[at + 24 : at + 28] == size.to_bytes(4, "little")
    data[at + 24 : at + 28] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(AssetError, match="more than 512 MiB"):
        read(tmp_path, bytes(data))
