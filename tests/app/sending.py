"""Pictures that visitors of a studio send."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sds3d.app import uploads
from sds3d.app.studio import Studio


def square() -> Image.Image:
    """A red square of 40 x 40 pixels in the middle of a white picture of 100 x 80."""
    pixels = np.full((80, 100, 3), 255, np.uint8)
    pixels[20:60, 30:70] = 200, 30, 30
    return Image.fromarray(pixels)


def send(studio: Studio, name: str = "My mug.png", picture: Image.Image | bytes | None = None) -> str:
    """Upload a picture as ada, or the bytes of a file that claims to be one. Return its token."""
    path = uploads.new_place(studio.root, "ada", name)
    if isinstance(picture, bytes):
        path.write_bytes(picture)
    else:
        (picture or square()).save(path)
    return path.parent.name
