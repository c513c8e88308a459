"""Reading 3MF: the objects that a file builds, in their places, with the colours of their triangles.

Read are the core, colours and base materials of the materials extension, and objects in several files of the package
(production extension). Supports, textures, mixtures and what other extensions add are left out, with one warning.
Frame and specification: see `three_mf`.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from sds3d.files import first_line
from sds3d.formats.looks import Look, Part
from sds3d.formats.parts import MOST_VERTICES, joined
from sds3d.geometry.mesh import Mesh

_SPACE = "http://schemas.microsoft.com/3dmanufacturing/"
_CORE, _MATERIALS = f"{_SPACE}core/2015/02", f"{_SPACE}material/2015/02"
_PRODUCTION, _SLICES = f"{_SPACE}production/2015/06", f"{_SPACE}slice/2015/07"
_START = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
_METRES = {"micron": 1e-6, "millimeter": 1e-3, "centimeter": 1e-2, "inch": 0.0254, "foot": 0.3048, "meter": 1.0}
_PALETTES = {"colorgroup", "basematerials"}
_NO_COLORS = {
    "texture2dgroup": "textures",
    "compositematerials": "mixtures of materials",
    "multiproperties": "layers of materials",
}
_MOST = 1 << 29  # bytes of all models of a package: what a small file can make of itself
_DEEPEST = 64
_LEAST = 1000  # vertices that a part counts for at least
_NONE = -1
_DAMAGED = (KeyError, IndexError, TypeError, OverflowError, RuntimeError, NotImplementedError, EOFError)


@dataclass
class _Object:
    """An object of a model. vertices: x, y, z each. triangles: v1, v2, v3 each. properties: pid, p1, p2, p3 each."""

    kind: str
    properties_default: tuple[int, int]
    vertices: array[float] = field(default_factory=lambda: array("d"))
    triangles: array[int] = field(default_factory=lambda: array("q"))
    properties: array[int] = field(default_factory=lambda: array("q"))
    components: list[tuple[str, str, NDArray[np.float64]]] = field(default_factory=list)


@dataclass
class _Model:
    """One XML file. palettes: the sRGB colours of a group by its id. items: path, object and transform."""

    unit: str = "millimeter"
    objects: dict[str, _Object] = field(default_factory=dict)
    palettes: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    items: list[tuple[str, str, NDArray[np.float64]]] = field(default_factory=list)


def from_3mf(data: bytes, folder: Path) -> Mesh:
    """Return the mesh of a 3MF file in metres and its own frame, +Z up, with all its parts joined.

    Warns in one line of what is left out. Raises ValueError, in one line, for a file that is truncated, malformed,
    without triangles, or that requires an extension which cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            package = _Package(archive)
            mesh = joined(package.parts())
    except zipfile.BadZipFile as error:
        raise ValueError(f"the 3MF is truncated, or no zip file: {error}") from None
    except (*_DAMAGED, zlib.error, expat.ExpatError) as error:
        raise ValueError(f"the 3MF is malformed ({type(error).__name__}: {error}): export it again") from None
    if package.left_out:
        warnings.warn(f"left out of the mesh: {', '.join(package.left_out)}", stacklevel=3)
    return mesh


def is_3mf(data: bytes) -> bool:
    """Whether data is a zip file with a model of 3MF."""
    if data[:4] != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.lower().endswith(".model") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


class _Package:
    """The models of a package, parsed when they are needed. left_out: what the file has and the result lacks."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = {name.lower().lstrip("/"): name for name in archive.namelist()}
        self.left_out: dict[str, None] = {}
        self._models: dict[str, _Model] = {}
        self._left = _MOST
        self._total = 0

    def parts(self) -> Iterator[Part]:
        """Yield the parts that the file builds."""
        root = self.start()
        model = self.model(root)
        if model.unit not in _METRES:
            raise ValueError(f"the 3MF has the unknown unit {model.unit[:40]!r}: export it in millimetres")
        scale = np.eye(4)[:, :3] * _METRES[model.unit]
        for path, number, transform in model.items:
            yield from self._placed(path or root, number, _chained(transform, scale), 0)

    def start(self) -> str:
        """Return the path of the model that the file begins with."""
        found: list[str] = []

        def element(name: str, attributes: dict[str, str]) -> None:
            if attributes.get("Type") == _START:
                found.append(attributes["Target"])

        self._parse("_rels/.rels", element)
        if not found:
            raise ValueError("the 3MF names no model to begin with: export it again")
        return found[0]

    def model(self, path: str) -> _Model:
        """Return the model at a path of the package."""
        key = path.lower().lstrip("/")
        if key not in self._models:
            model = _Model()
            self._parse(path, _Reader(model, self.left_out).element)
            self._models[key] = model
        return self._models[key]

    def _parse(self, path: str, element: Any) -> None:
        name = self.names.get(path.lower().lstrip("/"))
        if name is None:
            raise ValueError(f"the 3MF lacks its part {path[:80]}: export it again")
        self._left -= self.archive.getinfo(name).file_size
        if self._left < 0:
            raise ValueError(f"the models of the 3MF have more than {_MOST >> 20} MiB: simplify them")
        prefixes: dict[str | None, str] = {}
        parser = expat.ParserCreate(namespace_separator=" ")

        def declared(prefix: str | None, space: str) -> None:
            prefixes[prefix] = space

        def started(tag: str, attributes: dict[str, str]) -> None:
            for prefix in attributes.get("requiredextensions", "").split() if tag.endswith("model") else ():
                space = prefixes.get(prefix, prefix)
                if space not in (_CORE, _MATERIALS, _PRODUCTION, _SLICES):
                    raise ValueError(
                        f"the 3MF requires the extension {space[:100]}, which cannot be read: export without"
                    )
            element(tag, attributes)

        def refused(*_: Any) -> None:
            raise ValueError("the 3MF has a document type, which the format forbids: export it again")

        parser.StartNamespaceDeclHandler = declared
        parser.StartElementHandler = started
        parser.StartDoctypeDeclHandler = refused
        with self.archive.open(name) as file:
            parser.ParseFile(file)

    def _placed(self, path: str, number: str, place: NDArray[np.float64], depth: int) -> Iterator[Part]:
        """Yield the parts of an object. place: (4, 3), by which rows (x, y, z, 1) are multiplied."""
        model = self.model(path)
        if number not in model.objects:
            raise ValueError(f"the 3MF builds object {number[:40]}, which it lacks: export it again")
        if depth > _DEEPEST:
            raise ValueError("the objects of the 3MF are too deeply nested, or contain themselves: export it again")
        thing = model.objects[number]
        if thing.kind in ("support", "solidsupport", "other"):
            self.left_out["supports and helpers"] = None
            return
        self._total += max(len(thing.vertices) // 3, _LEAST)
        if self._total > MOST_VERTICES:
            raise ValueError(f"the parts of the 3MF have more than {MOST_VERTICES} vertices together: leave out some")
        if thing.triangles:
            yield _part(thing, model, place)
        for other, component, transform in thing.components:
            yield from self._placed(other or path, component, _chained(transform, place), depth + 1)


class _Reader:
    """Collects the elements of a model as the parser meets them."""

    def __init__(self, model: _Model, left_out: dict[str, None]) -> None:
        self.model, self.left_out = model, left_out
        self.thing = _Object("", (_NONE, _NONE))
        self.palette: list[tuple[int, ...]] = []

    def element(self, name: str, given: dict[str, str]) -> None:
        try:
            self._read(name, given)
        except ValueError as error:
            raise ValueError(f"the 3MF is malformed ({first_line(error)[:100]}): export it again") from None

    def _read(self, name: str, given: dict[str, str]) -> None:
        space, _, tag = name.rpartition(" ")
        if space not in ("", _CORE, _MATERIALS):
            if space != _SLICES:
                self.left_out[f"what {space[:100]} adds"] = None
        elif tag == "vertex":
            self.thing.vertices.extend((float(given["x"]), float(given["y"]), float(given["z"])))
        elif tag == "triangle":
            self._triangle(given)
        elif tag == "object":
            default = int(given.get("pid", _NONE)), int(given.get("pindex", _NONE))
            self.thing = self.model.objects[given["id"]] = _Object(given.get("type", "model"), default)
        elif tag in ("component", "item"):
            placed = given.get(f"{_PRODUCTION} path", ""), given["objectid"], _transform(given.get("transform"))
            (self.thing.components if tag == "component" else self.model.items).append(placed)
        elif tag in _PALETTES:
            self.palette = self.model.palettes[int(given["id"])] = []
        elif tag in ("base", "color"):
            text = given["displaycolor" if tag == "base" else "color"].strip()
            if len(text) not in (7, 9) or not text.startswith("#"):
                raise ValueError(f"the colour {text[:20]!r}")
            self.palette.append(tuple(bytes.fromhex(text[1:7])))
        elif tag in _NO_COLORS:
            self.left_out[_NO_COLORS[tag]] = None
        elif tag == "model":
            self.model.unit = given.get("unit", self.model.unit)

    def _triangle(self, given: dict[str, str]) -> None:
        self.thing.triangles.extend((int(given["v1"]), int(given["v2"]), int(given["v3"])))
        group, index = self.thing.properties_default
        first = int(given.get("p1", index))
        second, third = int(given.get("p2", first)), int(given.get("p3", first))
        self.thing.properties.extend((int(given.get("pid", group)), first, second, third))


def _transform(text: str | None) -> NDArray[np.float64]:
    """Return a matrix (4, 3), by which rows (x, y, z, 1) are multiplied."""
    return np.eye(4)[:, :3] if text is None else np.array(text.split(), np.float64).reshape(4, 3)


def _chained(first: NDArray[np.float64], then: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = first @ then[:3]
    whole[3] += then[3]
    return whole


def _part(thing: _Object, model: _Model, place: NDArray[np.float64]) -> Part:
    """Return an object in its place. Vertices whose triangles have other colours there are doubled."""
    vertices = np.array(thing.vertices).reshape(-1, 3)
    faces = np.array(thing.triangles).reshape(-1, 3)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError("a face names a vertex that does not exist: the file is damaged, write it again")
    colors, entries = _colors(np.array(thing.properties).reshape(-1, 4), model)
    corners, index = np.unique(faces * len(colors) + entries, return_inverse=True)
    points = vertices[corners // len(colors)] @ place[:3] + place[3]
    faces = index.reshape(-1, 3)
    if np.linalg.det(place[:3]) < 0:
        faces = faces[:, ::-1]
    shown = colors[corners % len(colors)] if (entries > 0).any() else None
    return Part(points, faces.astype(np.int32), None, Look(shown))


def _colors(properties: NDArray[np.int64], model: _Model) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return sRGB colours (N, 3), the first white, and which of them each corner (F, 3) of the triangles has."""
    colors: list[tuple[int, ...]] = [(255, 255, 255)]
    entries = np.zeros((len(properties), 3), np.int64)
    for group in np.unique(properties[:, 0]).tolist():
        if not (palette := model.palettes.get(group)):
            continue
        rows = properties[:, 0] == group
        chosen = properties[rows, 1:]
        if chosen.min() < _NONE or chosen.max() >= len(palette):
            raise ValueError("a triangle of the 3MF has a colour that does not exist: export it again")
        entries[rows] = np.where(chosen == _NONE, 0, chosen + len(colors))
        colors += palette
    return (np.array(colors) / 255).astype(np.float32), entries
