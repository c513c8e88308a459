"""`sds3d start`: a coarse shape to start a run from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sds3d.cli.options import Device, examples
from sds3d.console import err, out

EXAMPLES = examples(
    'sds3d start "a corgi" --model shap-e --out corgi.ply  # shap-e is a folder in the layout of diffusers',
    'sds3d generate "a corgi" --preset gaussiandreamer start_from=corgi.ply',
    notes=("The folder is that of a ShapEPipeline, such as openai/shap-e, with safetensors.",),
)


def start(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to make.", show_default=False)],
    model: Annotated[str, typer.Option(metavar="FOLDER", help="A Shap-E model.", show_default=False)],
    out_file: Annotated[Path, typer.Option("--out", help="The file to write, a PLY mesh with vertex colours.")] = Path(
        "start.ply"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 64,
    scale: Annotated[float, typer.Option(min=0, help="Classifier-free guidance scale.")] = 15.0,
    resolution: Annotated[int, typer.Option(min=8, max=512, help="Grid points per side of the surface.")] = 128,
    device: Device = "",
) -> None:
    """Make a coarse shape by Shap-E, for start_from, as GaussianDreamer does."""
    from sds3d.config import ConfigError
    from sds3d.devices import pick_device
    from sds3d.files import write_atomically
    from sds3d.formats.ply import to_ply
    from sds3d.run.shap_e import load_shap_e

    if out_file.suffix.lower() != ".ply":
        raise ConfigError(f"--out {out_file}: give a file that ends in .ply")
    with err.status(f"making a coarse shape with {escape(model)}"):
        mesh = load_shap_e(model, pick_device(device))(prompt, seed, steps=steps, scale=scale, resolution=resolution)
    out_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out_file, to_ply(mesh))
    out.print(f"{escape(str(out_file))}: {len(mesh.faces)} triangles", soft_wrap=True)
