"""Training of a generator: a run whose scene comes from a network, and whose prompt changes from step to step.

Everything else is as in a run: the same loop, rules, priors, cameras and regularisers. After a kill at any instant, the
same command resumes, and ends with the same weights (on a CPU, with the same number of threads).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from sds3d.cameras import CameraConfig, orbit
from sds3d.config import Config, ConfigError, dump_yaml
from sds3d.files import RunError, read_plain, write_atomically
from sds3d.formats.pictures import contact_sheet
from sds3d.generators.base import GeneratedField, Generator, generate
from sds3d.generators.files import About, AnyGeneratorConfig, save_generator
from sds3d.generators.triplane import TriplaneGeneratorConfig
from sds3d.guidance.multiview import MultiViewConfig
from sds3d.guidance.rules import GuidanceConfig
from sds3d.guidance.transforms import GradientTransform
from sds3d.priors.available import AnyPriorConfig
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.digest import prior_digest
from sds3d.prompts.prompt import EncodedPrompt, PromptConfig, encode_each
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.representations.field_nerf import FieldNerfScene
from sds3d.run.lessons import Teacher
from sds3d.run.optimize import OptimizerConfig, Setup, optimize, pack, random_streams, resume, start
from sds3d.toybox.captions import prompt, sample_spec
from sds3d.toybox.examples import OBJECTS
from sds3d.toybox.fit import Report, write_tensors
from sds3d.toybox.true_views import TrueViews

CHECKPOINT = "training.safetensors"
SETTINGS = "training.yaml"
_SHOWN = 8  # prompts on the sheet of samples
_AT_ONCE = 100  # steps whose prompts are encoded together


class GeneratorTraining(Config):
    """Settings of the training of a generator."""

    generator: AnyGeneratorConfig = TriplaneGeneratorConfig()
    """The network."""
    steps: int = Field(default=20_000, ge=1)
    """Steps, with one prompt each."""
    seed: int = Field(default=0, ge=0)
    """Seed of all random choices."""
    texts: tuple[str, ...] = ()
    """The prompts to train on. Without any, they are drawn from all combinations that the embedded prior has seen."""
    pictures: bool = False
    """Train on true pictures of the toy world instead of the rule's gradient: the most that a rule can achieve."""
    prior: AnyPriorConfig = DiffusersConfig()
    """The frozen diffusion model. Its text encoder is also the generator's."""
    guidance: GuidanceConfig = MultiViewConfig()
    """The score-distillation rule."""
    gradient: tuple[GradientTransform, ...] = ()
    """Transforms of the rule's gradient, applied in this order."""
    cameras: CameraConfig = CameraConfig()
    """The cameras of each step."""
    prompts: PromptConfig = PromptConfig()
    """How a prompt becomes a text for each view."""
    optimizer: OptimizerConfig = OptimizerConfig(warmup=200)
    """Adam and its learning-rate schedule."""
    checkpoint_every: int = Field(default=250, ge=1)
    """Steps between checkpoints."""
    sample_every: int = Field(default=1000, ge=1)
    """Steps between sheets of samples."""


def train_generator(
    folder: Path,
    config: GeneratorTraining,
    report: Report,
    device: torch.device | str = "cpu",
    prior: Prior | None = None,
) -> Path:
    """Train a generator in `folder`, and return the folder `folder/generator`.

    report: called after each step. prior: that of the settings, if it is loaded already.
    Raises ConfigError if no prompts are given and the prior does not tell its words, RunError if the folder was begun
    with other settings, PriorError, and NumericalError.
    """
    _begin(folder, config)
    prior = prior or config.prior.load(torch.device(device))
    draw = _drawing(config)
    embedded = Embedded(prior, config, draw)
    streams = random_streams(config.seed, "network", "scene", "cameras", "guidance")
    width = prior.encode_text([""]).hidden.shape[-1]
    network = config.generator.make(width, streams["network"]).to(device)
    scene = FieldNerfScene(config.generator.representation, streams["scene"], device, config.steps)
    field = scene.field = GeneratedField(network)

    def choose(step: int) -> EncodedPrompt:
        encoded = embedded.of_step(step)
        field.choose(encoded.plain.hidden[0], embedded.seed(step).to(device))
        scene.survey()
        return encoded

    rule = TrueViews() if config.pictures else config.guidance.make(prior)
    teacher = Teacher(prior, rule, choose(0), config.gradient)
    streams = {name: streams[name] for name in ("cameras", "guidance")}
    path = folder / CHECKPOINT
    if path.exists():
        state = resume(load_file(path), scene, [rule], config.optimizer, streams)
    else:
        state = start(scene, config.optimizer, streams)
    steps = optimize(Setup(scene, [teacher], config.steps, config.cameras, config.optimizer), state)
    while state.step < config.steps:
        teacher.prompt = choose(state.step)
        step = next(steps)
        if step.step % config.sample_every == 0 or step.step == config.steps:
            _draw_samples(folder, config, network, embedded, step.step)
        if step.step % config.checkpoint_every == 0 or step.step == config.steps:
            write_tensors(path, pack(scene, [rule], state), {})
        report("generator", step.step, config.steps, {name: float(value) for name, value in step.losses.items()})
    save_generator(folder / "generator", _about(config, width), network)
    return folder / "generator"


class Embedded:
    """The prompts of the steps, encoded for many steps at once: prior and text encoder may take turns in memory."""

    def __init__(self, prior: Prior, config: GeneratorTraining, draw: Callable[[np.random.Generator], str]) -> None:
        self._prior, self._config, self._draw = prior, config, draw
        self._block, self._encoded = -1, dict[str, EncodedPrompt]()

    def of_step(self, step: int) -> EncodedPrompt:
        """Return the prompt of a step."""
        block = step // _AT_ONCE
        if block != self._block:
            steps = range(block * _AT_ONCE, (block + 1) * _AT_ONCE)
            self._encoded = self.of([self._text(i) for i in steps])
            self._block = block
        return self._encoded[self._text(step)]

    def of(self, texts: Sequence[str]) -> dict[str, EncodedPrompt]:
        """Return the embeddings of prompts."""
        config, unique = self._config, list(dict.fromkeys(texts))
        wanted = [config.guidance.texts(text, config.prompts) for text in unique]
        return dict(zip(unique, encode_each(self._prior, wanted), strict=True))

    def seed(self, step: int) -> Tensor:
        """Return the random seed (Z,) of a step's object."""
        numbers = self._rng(step, 1).standard_normal(self._config.generator.seed_size)
        return torch.from_numpy(numbers.astype(np.float32))

    def _text(self, step: int) -> str:
        return self._draw(self._rng(step, 0))

    def _rng(self, step: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._config.seed, step, purpose])


def _begin(folder: Path, config: GeneratorTraining) -> None:
    """Note the settings of a new folder. Raises RunError if the folder was begun with others."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / SETTINGS, dump_yaml(config, exclude={"checkpoint_every", "sample_every"})
    if not path.exists():
        write_atomically(path, text.encode())
    elif read_plain(path) != text.encode():
        raise RunError(f"{folder} has a training with other settings: choose another folder, or remove it")


def _drawing(config: GeneratorTraining) -> Callable[[np.random.Generator], str]:
    """Return what draws the prompt of a step."""
    if config.texts:
        return lambda rng: config.texts[int(rng.integers(len(config.texts)))]
    words = _words(config)
    if words is None:
        raise ConfigError("the prior does not tell its words: give texts, the prompts to train on")
    kinds = tuple(words.kinds)
    return lambda rng: prompt(sample_spec(rng, kinds))


def _words(config: GeneratorTraining) -> Vocabulary | None:
    return config.prior.vocabulary() if isinstance(config.prior, DiffusersConfig) else None


def _about(config: GeneratorTraining, width: int) -> About:
    model = config.prior.model if isinstance(config.prior, DiffusersConfig) else config.prior.kind
    rule = "true pictures" if config.pictures else config.guidance.model_dump()["name"]
    digest = prior_digest(config.prior)
    return About(generator=config.generator, text_width=width, model=model, digest=digest, rule=rule)


@torch.no_grad()
def _draw_samples(folder: Path, config: GeneratorTraining, network: Generator, embedded: Embedded, step: int) -> None:
    """Draw what some prompts have become from four sides, into samples.png."""
    words = _words(config)
    texts: Sequence[str] = config.texts
    if words is not None and not texts:
        texts = [text for text in OBJECTS if text.split()[2] in words.kinds]
    azimuths = [0.0, 90.0, 180.0, 270.0]
    rows = []
    for text, encoded in embedded.of(texts[:_SHOWN]).items():
        hidden = encoded.plain.hidden[0]
        scene = generate(network, hidden, hidden.new_zeros(config.generator.seed_size))
        views = scene.render(orbit(azimuths, 15.0, size=64), torch.ones(3, device=hidden.device))
        rows.append((text, views.rgb.clamp(0, 1).cpu().numpy()))
    title = f"step {step} of {config.steps}"
    contact_sheet(rows, [f"{azimuth:.0f}°" for azimuth in azimuths], title, size=64).save(folder / "samples.png")
