"""The size of pictures and the words of a training: those of the prior that it starts from, or today's toy world."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.toybox import autoencoder
from sds3d.toybox.captions import VOCABULARY, WORLD
from sds3d.toybox.dataset import DataConfig, load_tokenizer
from sds3d.toybox.train_config import TrainConfig


@dataclass(frozen=True)
class Scope:
    """What a prior is trained on. size: height and width of its pictures in pixels. words: kinds of object, colours."""

    size: int
    words: Vocabulary

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of object."""
        return tuple(self.words.kinds)

    def training_data(self, config: TrainConfig) -> DataConfig:
        """Return the set of objects for the training."""
        return DataConfig(config.objects, config.seed, self.size, tokenizer=config.start_from, kinds=self.kinds)

    def held_out_data(self, config: TrainConfig) -> DataConfig:
        """Return the set of further objects for figures."""
        objects, seed = config.held_out_objects, config.seed + 1
        return DataConfig(objects, seed, self.size, tokenizer=config.start_from, kinds=self.kinds)


def scope_of(config: TrainConfig) -> Scope:
    """Return the scope of a prior's training. Raises ValueError or PriorError if it can't start from `start_from`."""
    if not config.start_from:
        return Scope(autoencoder.SIZE, WORLD)
    prior, words = start_prior(config.start_from)
    return Scope(prior.image_size, words)


def start_prior(model: str, device: torch.device | str = "cpu") -> tuple[DiffusersPrior, Vocabulary]:
    """Load the prior that a training starts from, and its words.

    model: its folder, or `toybox`. A prior without a file of its words knows the whole world if its tokenizer does.
    Raises ValueError for a prior of another kind, PriorError for a damaged one.
    """
    settings = DiffusersConfig(model=model)
    prior, words = settings.load(device), settings.vocabulary()
    if isinstance(prior, DiffusersPrior) and prior.camera_encoder is not None:
        if words is None and {f"{word}</w>" for word in VOCABULARY} <= load_tokenizer(model).get_vocab().keys():
            words = WORLD
        if words is not None:
            return prior, words
    raise ValueError(f"{model} is no prior of the toy world: train one with `sds3d toybox train`")
