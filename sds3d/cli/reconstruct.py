"""`sds3d reconstruct`: an object from a folder of pictures with their cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sds3d.cli.one_run import carry_out, check_no_reference, loading_libraries, named_by, split
from sds3d.cli.options import (
    Device,
    Json,
    Overrides,
    PresetName,
    RunsFolder,
    Threads,
    examples,
    warn_of_unknown_words,
)
from sds3d.console import err
from sds3d.presets import DEFAULT_PRESET, load_preset

EXAMPLES = examples(
    "sds3d reconstruct mug 'a red mug'  # mug/cameras.yaml lists the pictures",
    "sds3d reconstruct red-mug  # the prompt is 'a red mug'",
    "sds3d reconstruct nerf_synthetic/chair 'a green chair' --front 90  # transforms.json or transforms_train.json",
    "sds3d reconstruct mug 'a red mug' --preset splats  # Gaussian splats",
    notes=(
        "cameras.yaml (or .json) has pictures: [{image: front.png, azimuth: 0, elevation: 15, distance: 2.1}, ...], "
        "with the keys of the setting reference.",
        "transforms.json is the file of NeRF, instant-ngp and nerfstudio, with +Z up. The object is moved to the "
        "origin and scaled by its masks.",
    ),
)


def reconstruct(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Pictures, and a file with their cameras.", show_default=False)
    ],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The object. Default: the folder's name in words.")
    ] = "",
    overrides: Overrides = None,
    front: Annotated[
        float, typer.Option(help="For transforms.json: degrees around +Z from -Y to the object's front.")
    ] = 0.0,
    preset: PresetName = DEFAULT_PRESET,
    out_dir: RunsFolder = Path("runs"),
    device: Device = "",
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Make the object of several pictures whose cameras are known."""
    prompt, settings = split(prompt, overrides)
    load_preset(preset)
    check_no_reference(settings, "FOLDER")
    with loading_libraries():
        from sds3d.run.camera_files import read_cameras
        from sds3d.run.config import make_config, new_run

    pictures = read_cameras(folder, front)
    err.print(f"{len(pictures)} pictures")
    config = make_config(prompt or named_by(folder.resolve()), preset, settings, {"reference": pictures})
    warn_of_unknown_words([(config.prior, config.prompt, "")])
    carry_out(new_run(out_dir, config), device, threads, as_json)
