"""Pictures of the page: an object of each kind of the toy world, and what presets make of a prompt.

`sds3d toybox refresh` makes them anew in a checkout.
"""

from __future__ import annotations

import base64
import json
from functools import cache

from sds3d.config import assets_dir

_FOLDER = assets_dir() / "studio"


@cache
def presets() -> tuple[str, ...]:
    """Return the presets that have a picture, in the order of the strip."""
    return tuple(json.loads((_FOLDER / "presets.json").read_text()))


@cache
def data_url(name: str) -> str:
    """Return a strip of pictures as a data URL. name: "objects" or "presets"."""
    data = (_FOLDER / f"{name}.webp").read_bytes()
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"
