"""Pictures to choose from: objects that the embedded prior knows, and presets."""

from __future__ import annotations

from html import escape

from sds3d.app import pictures
from sds3d.app.fragments import about
from sds3d.presets import Preset
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox.examples import OBJECTS

GROUPS = {"recommended": "Recommended", "paper": "Papers", "rule": "Rules", "real": "Real models"}
"""Titles of the groups of presets, in their order."""

OBJECTS_SCRIPT = """element.addEventListener('click', event => {
const button = event.target.closest('[data-prompt]');
if (button) trigger('select', {prompt: button.dataset.prompt}); });"""

PRESETS_SCRIPT = """element.addEventListener('change', event => trigger('select', {preset: event.target.value}));"""


def objects(vocabulary: Vocabulary | None) -> str:
    """Return a gallery of objects that the embedded prior knows; each is a button with its prompt."""
    if vocabulary is None:
        return ""
    last = len(OBJECTS) - 1
    known = [(i, prompt) for i, prompt in enumerate(OBJECTS) if not vocabulary.read(prompt).unknown]
    buttons = "".join(
        f'<button data-prompt="{escape(prompt)}" aria-label="{escape(prompt)}" title="{escape(prompt)}">'
        f'<i style="background-position:{100 * i / last:.3f}% 0"></i></button>'
        for i, prompt in known
    )
    return (
        '<p class="sds-caption">Objects that the embedded prior knows</p>'
        f'<div class="sds-objects" style="--width:{100 * (last + 1)}%;--strip:url({pictures.data_url("objects")})">'
        f"{buttons}</div>"
    )


def presets(listed: list[Preset], chosen: str, default: str) -> str:
    """Return the presets as cards, by group: picture, name, purpose and time. The default is the first."""
    groups = "".join(
        _group(title, [p for p in listed if p.about.group == group], chosen, default) for group, title in GROUPS.items()
    )
    width = 100 * len(pictures.presets())
    strip = pictures.data_url("presets")
    return f'<div class="sds-presets" style="--width:{width}%;--strip:url({strip})">{groups}</div>'


def _group(title: str, listed: list[Preset], chosen: str, default: str) -> str:
    cards = "".join(_card(p, chosen) for p in sorted(listed, key=lambda p: (p.name != default, p.name)))
    unfolded = " open" if title == "Recommended" or chosen in {p.name for p in listed} else ""
    return f"<details{unfolded}><summary>{title} <span>{len(listed)}</span></summary><div>{cards}</div></details>"


def _card(preset: Preset, chosen: str) -> str:
    shown = pictures.presets()
    picture = ""
    if preset.name in shown:
        place = 100 * shown.index(preset.name) / (len(shown) - 1)
        picture = f'<i style="background-position:{place:.3f}% 0"></i>'
    checked = " checked" if preset.name == chosen else ""
    time = f"<small>{about(preset.about.seconds)}</small>" if preset.about.seconds else ""
    return (
        f'<label><input type="radio" name="preset" value="{escape(preset.name)}"{checked}>{picture}'
        f"<span><b>{escape(preset.name)}</b>{time}<em>{escape(preset.about.description)}</em></span></label>"
    )
