"""Materials of the toy world: words, the truth about each part, captions and their parser.

Prompts without a word for a material are those of `sds3d.toybox.captions`, and their objects stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from sds3d.geometry.mesh import Mesh
from sds3d.toybox import captions
from sds3d.toybox.objects import build_with_parts
from sds3d.toybox.world import ACCENT_PART, Spec


class Material(NamedTuple):
    """What a surface is made of: metallic and roughness in [0, 1], and the words that mean it, the usual one first."""

    metallic: float
    roughness: float
    words: tuple[str, ...]


MATERIALS: dict[str, Material] = {
    "rubber": Material(0.0, 0.9, ("rubber", "matte")),
    "plastic": Material(0.0, 0.45, ("plastic",)),
    "ceramic": Material(0.0, 0.15, ("ceramic", "porcelain", "glazed")),
    "brushed": Material(1.0, 0.5, ("brushed metal", "metal")),
    "shiny": Material(1.0, 0.25, ("shiny metal", "polished metal")),
    "mirror": Material(1.0, 0.06, ("mirror", "chrome")),
}
"""The materials by name."""

SILVER = "white"
"""The colour of a metal whose prompt names none."""

FIXED = "plastic"
"""The material of parts with fixed colours, such as eyes and windows."""

WORDS = tuple(sorted({"made", *(part for one in MATERIALS.values() for word in one.words for part in word.split())}))
"""The words that captions with materials have besides those of `sds3d.toybox.captions`."""

_SPREAD = 0.04  # of the roughness among objects of one material
_MEANT = {word: name for name, material in MATERIALS.items() for word in material.words}
_WORD = re.compile(r"\b(" + "|".join(sorted(_MEANT, key=len, reverse=True)) + r")\b", re.IGNORECASE)
_ACCENT = re.compile(r"\b(?:with|that has|and|whose)\b|,", re.IGNORECASE)
_EXAMPLE = "a red rubber mug with a blue plastic handle"
_MEDIA = ("photo of", "picture of", "render of", "3d model of")


@dataclass(frozen=True)
class Look:
    """An object with its material, and that of the part with the accent; None: the same."""

    spec: Spec
    material: str
    accent_material: str | None = None


def prompt(look: Look) -> str:
    """Return the canonical prompt: "a red rubber mug with a blue plastic handle", "a shiny metal teapot"."""
    return _text(look, "{color} {material} {noun}")


def caption(look: Look, rng: np.random.Generator, view: str | None = None) -> str:
    """Return a random paraphrase of the prompt, with words for the view ("front", "side", "back", "overhead") if given.
    `parse` reads each without them as the same look.
    """
    if view is not None:
        return f"{caption(look, rng)}, {view} view"
    if rng.random() < 0.3:
        return prompt(look)
    forms = ("{color} {material} {noun}", "{material} {color} {noun}", "{color} {noun} made of {material}")
    words = [MATERIALS[name].words for name in (look.material, look.accent_material or look.material)]
    main, accent = (options[int(rng.integers(len(options)))] for options in words)
    text = _text(look, forms[int(rng.integers(len(forms)))], main, accent)
    return f"{_MEDIA[int(rng.integers(len(_MEDIA)))]} {text}" if rng.random() < 0.3 else text


def parse(text: str) -> Look | None:
    """Return the look that a prompt or caption describes; None if it names no material.

    Materials named before "with", "and", "whose" or a comma are the object's, later ones those of its part. A metal
    without a colour is silver. Raises ValueError, in one line, for a prompt with materials that cannot be made.
    """
    found = list(_WORD.finditer(text))
    begin = match.start() if (match := _ACCENT.search(text)) else len(text)
    main = [_MEANT[match[1].lower()] for match in found if match.start() < begin]
    accents = [_MEANT[match[1].lower()] for match in found if match.start() > begin]
    if not found:
        return None

    def refused(why: str) -> ValueError:
        return ValueError(f"{text!r} {why}; write for example {_EXAMPLE!r}")

    if not main:
        raise refused("names a material only after 'with', 'and' or a comma: name the object's own before it")
    if len(main) > 1 or len(accents) > 1:
        raise refused("names several materials of one part: keep one")
    plain = re.sub(r"\bmade of\b", " ", _WORD.sub(" ", text))
    reading = captions.WORLD.read(plain)
    if len(reading.kinds) != 1:
        raise refused("does not name one toy object, see sds3d toybox words")
    colors, colors_of_part = reading.colors.values()
    if not colors and MATERIALS[main[0]].metallic:
        colors = [SILVER]
    if len(colors) != 1 or len(colors_of_part) > 1:
        raise refused("names several colours of one part: keep one" if colors else "does not name the object's colour")
    spec = Spec(reading.kinds[0], colors[0], colors_of_part[0] if colors_of_part else None)
    return Look(spec, main[0], accents[0] if accents else None)


def sample(
    rng: np.random.Generator, sample_spec: Callable[[np.random.Generator], Spec] = captions.sample_any_spec
) -> Look:
    """Draw a combination of the world with a material; half of those with an accent have another one there."""
    spec = sample_spec(rng)
    names = tuple(MATERIALS)
    main, accent = (names[int(i)] for i in rng.integers(len(names), size=2))
    apart = spec.accent is not None and rng.random() < 0.5 and accent != main
    return Look(spec, main, accent if apart else None)


def build_look(look: Look, rng: np.random.Generator) -> Mesh:
    """Build the object of a look: that of its spec, with metallic and roughness at each vertex (`Mesh.materials`).

    The same `rng` gives the same shape and colours as `objects.build`. Raises ValueError for unknown names.
    """
    for name in (look.material, look.accent_material):
        if name is not None and name not in MATERIALS:
            raise ValueError(f"unknown material {name!r}; known: {', '.join(MATERIALS)}")
    mesh, parts = build_with_parts(look.spec, rng)
    names = (FIXED, look.material, look.accent_material or look.material)
    shift = float(rng.uniform(-_SPREAD, _SPREAD))
    table = np.array([[m.metallic, np.clip(m.roughness + shift, 0.03, 1)] for m in map(MATERIALS.__getitem__, names)])
    values = table[parts].astype(np.float32)
    metallic, roughness = values.mean(axis=0).tolist()
    return replace(mesh, materials=values, metallic=metallic, roughness=roughness)


def _text(look: Look, form: str, main: str = "", accent: str = "") -> str:
    spec, material = look.spec, MATERIALS[look.material]
    color = "" if material.metallic and spec.color == SILVER else spec.color
    text = "a " + form.format(color=color, material=main or material.words[0], noun=spec.category)
    if spec.accent is not None or look.accent_material is not None:
        part = ACCENT_PART[spec.category]
        other = (accent or MATERIALS[look.accent_material].words[0]) if look.accent_material is not None else ""
        text += f" with {'' if part.endswith('s') else 'a'} {spec.accent or ''} {other} {part}"
    return captions.with_articles(text)
