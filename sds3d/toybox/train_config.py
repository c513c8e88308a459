"""Settings of the training of the embedded prior and the scorer."""

from __future__ import annotations

from pydantic import Field, field_validator

from sds3d.config import Config, assets_dir


class TrainConfig(Config):
    """Sizes of the training. assets/toybox/CARD.md states those of the shipped prior."""

    objects: int = Field(default=16000, ge=16)
    """Objects rendered from four sides for training."""
    held_out_objects: int = Field(default=304, ge=1)
    """Further objects, from another seed, for the figures of the card."""
    seed: int = 0
    workers: int = Field(default=2, ge=1)
    """Processes that render and, on a CPU, train the U-Net: this is faster than one process with as many threads."""
    start_from: str = ""
    """Folder of a prior, or `toybox`. Its encoder of pictures is kept, its other networks are trained further, with its
    kinds of object and size of pictures."""
    minutes: float = Field(default=0, ge=0)
    """Minutes of rendering and training; 0: the numbers of objects and steps count."""
    waiting_share: float = Field(default=0.1, gt=0, lt=0.5)
    """The share of `minutes` before the training begins, for the first pictures."""
    autoencoder_share: float = Field(default=0.1, gt=0, lt=0.5)
    """The autoencoder's share of `minutes`. The U-Net gets the rest."""
    rendering_share: float = Field(default=0.6, gt=0, lt=1)
    """The share of `minutes` after which no further objects are rendered."""
    autoencoder_objects: int = Field(default=12000, ge=16)
    """Objects whose pictures the autoencoder is trained on, at most."""
    autoencoder_steps: int = Field(default=4500, ge=1)
    autoencoder_batch: int = Field(default=16, ge=1)
    autoencoder_rate: float = Field(default=2e-3, gt=0)
    unet_steps: int = Field(default=12000, ge=1)
    unet_objects: int = Field(default=4, ge=1)
    """Objects of four views in each process's batch of the U-Net."""
    unet_rate: float = Field(default=8e-4, gt=0)
    structure_steps: int = Field(default=2000, ge=1)
    """Steps of a training that adds structure to a prior. Its batches are those of the U-Net."""
    structure_rate: float = Field(default=4e-4, gt=0)
    pictures_steps: int = Field(default=2500, ge=1)
    """Steps of a training that adds pictures to a prior. Its batches are those of the U-Net."""
    pictures_rate: float = Field(default=2e-3, gt=0)
    reader_steps: int = Field(default=1000, ge=1)
    """Steps before that, in which its reader of pictures learns to name colours: 64 pictures each."""
    start_objects: int = Field(default=1024, ge=16)
    """Objects that the network of starts is trained on."""
    start_steps: int = Field(default=2400, ge=1)
    start_batch: int = Field(default=4, ge=1)
    """Objects in a batch of the network of starts."""
    start_rate: float = Field(default=2e-3, gt=0)
    normals_objects: int = Field(default=1024, ge=16)
    """Objects that the estimator of normals is trained on."""
    normals_steps: int = Field(default=1500, ge=1)
    normals_batch: int = Field(default=16, ge=1)
    normals_rate: float = Field(default=2e-3, gt=0)
    guidance_objects: int = Field(default=512, ge=1)
    """Objects whose guided sampling the adapter for guidance in one call is trained on."""
    guidance_steps: int = Field(default=5000, ge=1)
    guidance_batch: int = Field(default=4, ge=1)
    """Points of trajectories in a batch of it, of four views each."""
    guidance_rate: float = Field(default=6e-3, gt=0)
    samples: int = Field(default=16, ge=0)
    """Prompts in the sample grid that is drawn from time to time, one of each kind."""
    scorer_objects: int = Field(default=8000, ge=16)
    scorer_steps: int = Field(default=4000, ge=1)
    scorer_batch: int = Field(default=64, ge=1)
    checkpoint_every: int = Field(default=250, ge=1)
    """Steps between checkpoints."""

    @field_validator("start_from")
    @classmethod
    def _folder(cls, given: str) -> str:
        return str(assets_dir() / "toybox" / "prior") if given == "toybox" else given
