"""The embedded prior with an encoder of structures whose last layer is random, for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from sds3d.priors.loading import toybox_folder
from sds3d.priors.structure import FOLDER, MAPS, StructureEncoder


def write_structured_prior(folder: Path, maps: int = MAPS) -> Path:
    """Write the prior's folder, and return it. maps: channels that the encoder takes."""
    shutil.copytree(toybox_folder(), folder)
    width = json.loads((folder / "unet" / "config.json").read_text())["block_out_channels"][0]
    torch.manual_seed(0)
    encoder = StructureEncoder(width, maps)
    torch.nn.init.normal_(encoder.last.weight, std=0.05)
    encoder.save(folder / FOLDER)
    return folder
