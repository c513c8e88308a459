"""MTL, the material files of Wavefront OBJ, with the PBR extension (Pr, Pm, map_Pr, map_Pm).

Options of a map that change where it lies (-s, -o, -clamp) are obeyed; the others are skipped. The material's colour
does not multiply its map, since most programs ignore the colour then.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sds3d.files import first_line
from sds3d.formats.looks import Look, Picture, Wrap
from sds3d.formats.neighbours import Neighbours
from sds3d.formats.pictures import rgb8
from sds3d.geometry.mesh import FloatArray

_ROUGH = 0.8  # without Pr
_WORDS = {"-blendu": 1, "-blendv": 1, "-bm": 1, "-boost": 1, "-cc": 1, "-clamp": 1, "-imfchan": 1, "-mm": 2}
_WORDS |= {"-texres": 1, "-type": 1}
_VECTORS = ("-o", "-s", "-t")
_LEFT_OUT = {"map_bump": "bump maps", "bump": "bump maps", "norm": "normal maps", "map_ke": "emission"}
_LEFT_OUT |= {"map_d": "transparency", "disp": "displacement", "map_ks": "specular maps", "refl": "reflection maps"}


@dataclass(frozen=True)
class Map:
    """A map of a material. file: its path. scale, offset: of the coordinates (u, v), v up. clamp: does not repeat."""

    file: str
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False


@dataclass
class Material:
    """A material of an MTL. numbers: Kd, Pr, Pm and others by keyword in lower case. maps: by keyword."""

    name: str
    numbers: dict[str, list[float]] = field(default_factory=dict)
    maps: dict[str, Map] = field(default_factory=dict)


def read_mtl(data: bytes) -> dict[str, Material]:
    """Return the materials of an MTL by name. Lines that make no sense are skipped, as all programs do."""
    materials: dict[str, Material] = {}
    material: Material | None = None
    for line in data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace").splitlines():
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        key, rest = key.lower(), rest.strip()
        if key == "newmtl":
            material = materials.setdefault(rest, Material(rest))
        elif material is None or not rest or key.startswith("#"):
            continue
        elif key.startswith("map_") or key in ("bump", "norm", "disp", "refl"):
            if found := _map(rest):
                material.maps[key] = found
        else:
            try:
                material.numbers[key] = [float(word) for word in rest.split()]
            except ValueError:
                continue
    return materials


def _map(rest: str) -> Map | None:
    """Return the map of a line without its keyword: options, then a file whose name may have spaces."""
    vectors: dict[str, list[float]] = {}
    clamp = False
    while match := re.match(r"(-[a-z]+)\s+", rest):
        option, rest = match[1], rest[match.end() :]
        if option in _VECTORS:
            values: list[float] = []
            while len(values) < 3 and (number := re.match(r"([-+.\deE]+)\s+", rest)):
                values.append(float(number[1]))
                rest = rest[number.end() :]
            vectors[option] = values
        elif option in _WORDS:
            *words, rest = (*rest.split(maxsplit=_WORDS[option]), "")[: _WORDS[option] + 1]
            clamp |= option == "-clamp" and words[0] == "on"
        else:
            break
    scale, offset = (
        (*vectors.get(option, ()), *(default,) * 2)[:2] if option in vectors else (default,) * 2
        for option, default in (("-s", 1.0), ("-o", 0.0))
    )
    return Map(rest.strip().strip('"'), (scale[0], scale[1]), (offset[0], offset[1]), clamp) if rest.strip() else None


class Pictures:
    """The pictures of materials, each decoded once. left_out: what the looks lack, in the order of discovery."""

    def __init__(self, files: Neighbours) -> None:
        self._files = files
        self._known: dict[str, Picture | None] = {}
        self.left_out: dict[str, None] = {}

    def read(self, name: str) -> Picture | None:
        """Return a picture; None, after a warning, if it is missing or cannot be decoded."""
        if name not in self._known:
            try:
                self._known[name] = rgb8(Image.open(io.BytesIO(self._files.read(name))))
            except (FileNotFoundError, PermissionError):
                self._known[name] = None  # `Neighbours` has warned
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                self._known[name] = None
                self.left_out[f"{name}, which cannot be decoded ({first_line(error)[:100]})"] = None
        return self._known[name]

    def look(self, material: Material, colors: FloatArray | None, uv: NDArray[np.float64] | None) -> Look:
        """Return the look of a material on vertices with their own colours and UVs (v down), if they have any."""
        maps, numbers = material.maps, material.numbers
        for key in sorted(maps.keys() & _LEFT_OUT.keys()):
            self.left_out[_LEFT_OUT[key]] = None
        if any(value > 0 for value in numbers.get("ke", ())):
            self.left_out["emission"] = None
        if numbers.get("d", [1])[0] < 1 or numbers.get("tr", [0])[0] > 0:
            self.left_out["transparency"] = None
        base = maps.get("map_kd")
        texture = None if base is None or uv is None else self.read(base.file)
        if texture is not None:
            colors = None
        elif colors is None and len(numbers.get("kd", [])) == 3:
            colors = np.clip(np.array([numbers["kd"]], np.float32), 0, 1)
        wrap: Wrap = "repeat"
        if uv is not None and (placed := base or maps.get("map_pr") or maps.get("map_pm")):
            if placed.scale != (1, 1) or placed.offset != (0, 0):
                uv = [0, 1] + ((uv * [1, -1] + [0, 1]) * placed.scale + placed.offset) * [1, -1]
            wrap = "clamp" if placed.clamp else "repeat"
        metallic, roughness = (
            min(max(numbers.get(key, [default])[0], 0.0), 1.0) for key, default in (("pm", 0.0), ("pr", _ROUGH))
        )
        mixed = None if uv is None else self._mixed(material, metallic, roughness)
        return Look(colors, uv, texture, mixed, metallic, roughness, (wrap, wrap), layout=material.name)

    def _mixed(self, material: Material, metallic: float, roughness: float) -> Picture | None:
        """Return the metallic-roughness texture of `map_Pr` and `map_Pm`; the factor where one is missing."""
        found = {key: self.read(material.maps[key].file) for key in ("map_pr", "map_pm") if key in material.maps}
        pictures = {key: Image.fromarray(picture[..., 0]) for key, picture in found.items() if picture is not None}
        if not pictures:
            return None
        size = max(image.size for image in pictures.values())
        both = np.full((size[1], size[0], 3), 255, np.uint8)
        for key, channel, factor in (("map_pr", 1, roughness), ("map_pm", 2, metallic)):
            both[..., channel] = np.asarray(pictures[key].resize(size)) if key in pictures else round(255 * factor)
        return both
