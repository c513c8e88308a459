"""`sds3d estimate`: depth, normals and materials of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sds3d.cli.options import Device, Json, examples
from sds3d.console import err, out, print_json

EXAMPLES = examples(
    "sds3d estimate mug.png --model marigold-depth-v1-1 --model marigold-normals-v1-1  # two folders",
    "sds3d generate 'a red mug' 'reference=[{image: mug.png, depth: mug-depth.png, normal: mug-normal.png, azimuth: 0, "
    "elevation: 10}]'",
    notes=(
        "Folders are those of Marigold's models for depth, normals and intrinsics in diffusers' layout, or of DPT or "
        "Depth Anything for disparity, the inverse depth.",
    ),
)


def estimate(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG, JPEG or WebP file.", show_default=False)],
    models: Annotated[
        list[str], typer.Option("--model", metavar="FOLDER", help="A model's folder. Repeatable.", show_default=False)
    ],
    out_dir: Annotated[Path | None, typer.Option("--out", help="The folder for the pictures. Default: that of PICTURE.",
                                                 show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Denoising steps. 0: what the model's folder says.")] = 0,
    ensemble: Annotated[int, typer.Option(min=1, max=50, help="Estimates that are combined.")] = 1,
    device: Device = "",
    as_json: Json = False,
) -> None:  # fmt: skip
    """Estimate depth, normals and materials of a picture, as pictures that a run can follow."""
    import torch

    from sds3d.config import ConfigError
    from sds3d.devices import pick_device
    from sds3d.files import write_atomically
    from sds3d.formats.masks import PictureError, open_picture
    from sds3d.formats.pictures import png, to_uint8
    from sds3d.priors.estimators import load_estimator

    try:
        rgb, alpha = open_picture(picture)
    except PictureError as error:
        raise ConfigError(str(error)) from None
    shown = rgb if alpha is None else 1 + alpha[..., None] * (rgb - 1)  # transparent pixels are white
    pictures = torch.as_tensor(shown, dtype=torch.float32)[None]
    folder = out_dir or picture.parent
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for model in models:
        with err.status(f"estimating with {escape(model)}"):
            estimator = load_estimator(model, pick_device(device))
            maps = estimator(pictures, seed, steps=steps or None, ensemble=ensemble)
        for name, values in maps.items():
            colors = (values + 1) / 2 if name == "normal" else values
            file = folder / f"{picture.stem}-{name}.png"
            write_atomically(file, png(to_uint8(colors[0].cpu().numpy())))
            written[name] = str(file)
    if as_json:
        print_json(written)
        return
    for name, path in written.items():
        out.print(f"{name}: {escape(path)}", soft_wrap=True)
