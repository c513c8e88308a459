"""What a benchmark's folder notes about the prior that its assets are made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from sds3d.files import RunError, read_plain, write_atomically
from sds3d.priors.base import Prior, PriorConfig
from sds3d.toybox.render import render_object
from sds3d.toybox.world import Spec


@dataclass(frozen=True)
class PriorRecord:
    """A prior. digest: see `PriorConfig.digest`. decoder: see `decoder_psnr`, in dB."""

    digest: str
    decoder: float


def noted(folder: Path, config: PriorConfig) -> PriorRecord | None:
    """Read the note in a folder; None if there is none.

    Raises RunError if the prior is not the noted one, because assets of two priors must not be mixed.
    """
    path = folder / "prior.json"
    try:
        record = PriorRecord(**json.loads(read_plain(path)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, then repeat the command") from None
    if record.digest != config.digest():
        raise RunError(f"{folder} has assets of other weights than the prior's: give another folder with --out")
    return record


def note(folder: Path, config: PriorConfig, prior: Prior, specs: Sequence[Spec]) -> None:
    """Measure a loaded prior and write the note, unless it is there."""
    if noted(folder, config) is None:
        record = PriorRecord(config.digest(), decoder_psnr(prior, specs))
        write_atomically(folder / "prior.json", (json.dumps(asdict(record), indent=2) + "\n").encode())


@torch.no_grad()
def decoder_psnr(prior: Prior, specs: Sequence[Spec]) -> float:
    """Return the mean PSNR in dB of encoded and decoded pictures: four views of an object of each prompt."""
    values = []
    for i, spec in enumerate(specs):
        pictures = render_object(spec, np.random.default_rng([2, i]), prior.image_size).pictures
        rgb = torch.from_numpy(pictures / np.float32(255)).to(prior.device)
        decoded = prior.decode(prior.encode_image(rgb)).clamp(0, 1)
        values.append(-10 * torch.log10((decoded - rgb).square().mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())
