"""Pictures of the page: an object of each kind of the toy world, and what presets make of a prompt.

`python -m sds3d.app.pictures` makes them anew in a checkout, from true renders of the toy world and from the picture of
the benchmark of guidance rules.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from sds3d.config import assets_dir

OBJECTS = (
    "a red mug", "a blue chair", "a yellow snowman with a green hat", "an orange car", "a blue house with a red roof",
    "a yellow duck", "an orange lamp", "a red mushroom with a white stem", "a white rocket with red fins",
    "a purple robot", "a pink teapot", "a green tree", "an orange cat", "a blue boat with a white sail",
    "a brown table", "a black hat with a white band", "a brown dog with black ears", "a white rabbit with a blue scarf",
    "a brown bear with a red shirt", "a pink pig", "a blue elephant with a red blanket",
    "an orange fish with white fins", "a green turtle with a brown shell", "a brown owl",
    "a black penguin with a white belly", "a green frog with yellow spots", "a yellow snail with a red shell",
    "a yellow bee with black stripes", "a green dinosaur with orange spikes", "a blue whale with a white belly",
    "a yellow bus with a black stripe", "a white airplane with red wings", "a green train with red wheels",
    "a red truck with a white cab", "an orange helicopter with a black rotor", "a green tractor with black wheels",
    "a yellow submarine", "a pink castle with purple towers", "a red lighthouse with white stripes",
    "a white windmill with red blades", "an orange tent with white stripes", "a blue mailbox with a brown post",
    "a red sofa with yellow cushions", "a brown bed with a blue blanket", "a red clock",
    "a brown television with a black screen", "a black camera with a white flash", "an orange guitar with a brown neck",
    "a red umbrella with a brown handle", "a green backpack with an orange pocket", "a blue bucket with a white handle",
    "a green bottle with a white cap", "a white vase with pink tulips", "a white candle with a yellow holder",
    "a blue book with a brown spine", "a red drum with yellow rims", "a yellow trophy with a brown base",
    "a yellow crown with blue jewels", "a brown chest with a red lid", "a purple gift with a yellow ribbon",
    "a yellow boot with a brown sole", "a red balloon with a brown basket", "a green bench with black legs",
    "a white sword with a yellow hilt", "a blue shield with a white cross", "a black piano with a red stool",
    "an orange ladder with white rungs", "a brown barrel with black hoops", "a red apple with green leaves",
    "an orange carrot with green leaves", "a pink cake with white icing", "a brown burger with yellow cheese",
    "a brown donut with pink icing", "a green cactus with a brown pot", "a red flower with green leaves",
    "an orange pumpkin with a green stem",
)  # fmt: skip
"""A prompt of each kind, in the world's order."""

SIZE = 112  # pixels of an object
COLUMN, ROW, PITCH, TILE = 412, 36, 68, 64
"""Where the benchmark's picture has the front of its third prompt: left and top of the first, distance and size."""

_FOLDER = assets_dir() / "studio"


def make(root: Path) -> None:
    """Write the pictures into the assets of a checkout at `root`."""
    from sds3d.toybox.render import render_prompt

    views = [render_prompt(prompt, [30.0], size=SIZE)[0] for prompt in OBJECTS]
    folder = root / "assets" / "studio"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(views, axis=1)).save(folder / "objects.webp", quality=82, method=6)
    rules = list(json.loads((root / "benchmarks" / "guidance.json").read_text())["summary"])
    with Image.open(root / "benchmarks" / "guidance.png") as sheet:
        box = [(COLUMN, ROW + PITCH * i, COLUMN + TILE, ROW + PITCH * i + TILE) for i in range(len(rules))]
        tiles = [np.asarray(sheet.convert("RGB").crop(place)) for place in box]
    Image.fromarray(np.concatenate(tiles, axis=1)).save(folder / "presets.webp", quality=82, method=6)
    (folder / "presets.json").write_text(json.dumps(rules) + "\n")


@cache
def presets() -> tuple[str, ...]:
    """Return the presets that have a picture, in the order of the strip."""
    return tuple(json.loads((_FOLDER / "presets.json").read_text()))


@cache
def data_url(name: str) -> str:
    """Return a strip of pictures as a data URL. name: "objects" or "presets"."""
    data = (_FOLDER / f"{name}.webp").read_bytes()
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


if __name__ == "__main__":
    make(Path.cwd())
