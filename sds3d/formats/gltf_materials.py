"""Materials of glTF 2.0: from textures and factors to the look of a part.

Base colour, metallic and roughness are kept. What a `Look` cannot hold is noted in the document as left out.
Specification: https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html, section 3.9.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sds3d.files import first_line
from sds3d.formats.gltf_document import BASISU, SPECULAR_GLOSSINESS, TEXTURE_TRANSFORM, Document
from sds3d.formats.looks import Look, Picture, Wrap
from sds3d.formats.pictures import rgb8
from sds3d.geometry.colors import linear_to_srgb, srgb_to_linear

Attributes = dict[str, NDArray[np.float64]]
"""Vertex attributes (V, K) by their names in glTF."""

_WRAPS: dict[int, Wrap] = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_SOURCES = ("EXT_texture_webp", "EXT_texture_avif")
_PIXELS = 1 << 28  # of all pictures together: what a small file can make of itself
_LOOKS_ALIKE = {SPECULAR_GLOSSINESS, "KHR_materials_unlit", "KHR_materials_ior", "KHR_materials_specular"}
_LOOKS_ALIKE |= {"KHR_materials_emissive_strength", "KHR_materials_variants"}


@dataclass
class Materials:
    """The materials of a document. Pictures that several share are decoded once."""

    document: Document

    def __post_init__(self) -> None:
        self._images: dict[int, Image.Image | None] = {}
        self._pictures: dict[tuple[int, tuple[float, ...]], Picture | None] = {}
        self._pixels = 0

    def look(self, index: int | None, attributes: Attributes) -> Look:
        """Return the look of a primitive by the number of its material, None for glTF's default material."""
        material = {} if index is None else self.document.items("materials")[index]
        self._note_what_is_left_out(material)
        extension = material.get("extensions", {}).get(SPECULAR_GLOSSINESS)
        if extension is None:
            model = material.get("pbrMetallicRoughness", {})
            base, base_factor = model.get("baseColorTexture"), model.get("baseColorFactor", [1, 1, 1, 1])
            maps = model.get("metallicRoughnessTexture")
            metallic, roughness = float(model.get("metallicFactor", 1)), float(model.get("roughnessFactor", 1))
        else:
            base, base_factor = extension.get("diffuseTexture"), extension.get("diffuseFactor", [1, 1, 1, 1])
            maps, metallic, roughness = None, 0.0, 1 - float(extension.get("glossinessFactor", 1))
            if "specularGlossinessTexture" in extension:
                self.document.leave_out("specular-glossiness textures")
        factor = tuple(float(value) for value in base_factor[:3])
        colors = attributes.get("COLOR_0")
        self._note_transparency(material, base, float(base_factor[3]), colors)
        if colors is not None:
            colors = colors[:, :3].clip(0, 1)
            colors = None if (colors == 1).all() else colors
        texture = self._picture(base, factor)
        if colors is not None or (texture is None and factor != (1, 1, 1)):
            light = np.array([factor if texture is None else (1, 1, 1)]) * (1 if colors is None else colors)
            colors = linear_to_srgb(light)
        uv, wrap = self._coordinates(base or maps, attributes)
        mixed = None if uv is None else self._picture(maps, (1.0, roughness, metallic), linear=True)
        if mixed is not None and base and maps and self._place(base) != self._place(maps):
            self.document.leave_out("metallic-roughness textures with texture coordinates of their own (mean kept)")
            roughness, metallic = (float(mixed[..., channel].mean() / 255) for channel in (1, 2))
            mixed = None
        return Look(colors, uv, texture, mixed, metallic, roughness, wrap, layout=index)

    def _coordinates(self, texture: dict[str, Any] | None, attributes: Attributes) -> tuple[Any, tuple[Wrap, Wrap]]:
        """Return the coordinates (V, 2) of a texture, and how it continues outside [0, 1]."""
        number, offset, rotation, scale = self._place(texture or {})[:4]
        uv = attributes.get(f"TEXCOORD_{number}")
        if uv is None and texture is None:
            uv = next((attributes[name] for name in sorted(attributes) if name.startswith("TEXCOORD_")), None)
        if uv is None or not np.isfinite(uv).all():
            return None, ("repeat", "repeat")
        sine, cosine = np.sin(rotation), np.cos(rotation)
        turn = np.array([[cosine * scale[0], sine * scale[1]], [-sine * scale[0], cosine * scale[1]]])
        if (turn != np.eye(2)).any() or offset != (0, 0):
            uv = uv[:, :2] @ turn.T + offset
        sampler = {}
        if texture is not None:
            source = self.document.items("textures")[texture["index"]]
            sampler = self.document.items("samplers")[source["sampler"]] if "sampler" in source else {}
        return uv[:, :2], (_WRAPS[sampler.get("wrapS", 10497)], _WRAPS[sampler.get("wrapT", 10497)])

    @staticmethod
    def _place(texture: dict[str, Any]) -> tuple[int, tuple[float, ...], float, tuple[float, ...]]:
        """Return the set of coordinates, the offset, the rotation in radians and the scale of a texture."""
        moved = texture.get("extensions", {}).get(TEXTURE_TRANSFORM, {})
        number = moved.get("texCoord", texture.get("texCoord", 0))
        offset, scale = (
            tuple(map(float, moved.get(key, both))) for key, both in (("offset", (0, 0)), ("scale", (1, 1)))
        )
        return int(number), offset, float(moved.get("rotation", 0)), scale

    def _picture(
        self, texture: dict[str, Any] | None, factor: tuple[float, ...], *, linear: bool = False
    ) -> Picture | None:
        """Return the picture of a texture, multiplied by a factor for each channel, or None without one."""
        number = self._image_number(texture)
        if number is None:
            return None
        key = number, factor
        if key not in self._pictures:
            image = self._image(number)
            picture = None if image is None else rgb8(image)
            if picture is not None and factor != (1, 1, 1):
                values = np.arange(256)[:, None] / 255
                table = values * factor if linear else linear_to_srgb(srgb_to_linear(values) * factor)  # (256, 3)
                table = np.rint(table.clip(0, 1) * 255).astype(np.uint8)
                picture = np.stack([table[picture[..., c], c] for c in range(3)], axis=-1)
            self._pictures[key] = picture
        return self._pictures[key]

    def _image_number(self, texture: dict[str, Any] | None) -> int | None:
        if texture is None:
            return None
        source = self.document.items("textures")[texture["index"]]
        extensions = source.get("extensions", {})
        number = next((extensions[name]["source"] for name in _SOURCES if name in extensions), source.get("source"))
        if number is None:
            self.document.leave_out(
                f"textures in Basis Universal ({BASISU}; gltf-transform ktxdecompress IN OUT makes PNG of them)"
                if BASISU in extensions
                else "textures without a picture"
            )
        return number

    def _image(self, number: int) -> Image.Image | None:
        """Return a decoded image; None, and a note, for one that cannot be decoded. Raises ValueError."""
        if number not in self._images:
            entry = self.document.items("images")[number]
            try:
                uri = entry.get("uri")
                data = bytes(self.document.view(entry["bufferView"])) if uri is None else self.document.uri(uri)
                image = Image.open(io.BytesIO(data))
                self._pixels += image.width * image.height
                if self._pixels <= _PIXELS:
                    image.load()
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                self.document.leave_out(f"picture {number} ({first_line(error)[:120]})")
                image = None
            if self._pixels > _PIXELS:
                raise ValueError(f"the pictures have more than {_PIXELS // 10**6} million pixels: make them smaller")
            self._images[number] = image
        return self._images[number]

    def _note_what_is_left_out(self, material: dict[str, Any]) -> None:
        out = self.document.leave_out
        if any(value > 0 for value in material.get("emissiveFactor", ())):
            out("emission")
        if "normalTexture" in material:
            out("normal maps")
        if "occlusionTexture" in material:
            out("occlusion maps")
        for name in sorted(material.get("extensions", {}).keys() - _LOOKS_ALIKE):
            out(name)

    def _note_transparency(
        self, material: dict[str, Any], base: dict[str, Any] | None, alpha: float, colors: NDArray[np.float64] | None
    ) -> None:
        mode = material.get("alphaMode", "OPAQUE")
        if mode == "OPAQUE":
            return
        number = self._image_number(base)
        image = None if number is None else self._image(number)
        if image is not None and "A" in image.getbands():
            alpha *= float(np.asarray(image.getchannel("A")).min()) / 255
        if colors is not None and colors.shape[1] == 4:
            alpha *= float(colors[:, 3].min())
        if alpha < (material.get("alphaCutoff", 0.5) if mode == "MASK" else 1):
            self.document.leave_out("alpha cut-outs" if mode == "MASK" else "transparency")
