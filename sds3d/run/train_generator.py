"""Training of a generator: a run whose scene comes from a network, and whose prompt changes from step to step.

Everything else is as in a run: the same loop, rules, priors, cameras and regularisers. After a kill at any instant, the
same command resumes, and ends with the same weights (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file

from sds3d.cameras import CameraConfig
from sds3d.config import Config, ConfigError, build
from sds3d.files import RunError, read_plain, write_atomically
from sds3d.generators.base import GeneratedScene, Generator, GeneratorConfig
from sds3d.generators.files import SETTINGS as NETWORK
from sds3d.generators.files import WEIGHTS, About, AnyGeneratorConfig, load_generator, read_about, save_generator
from sds3d.generators.triplane import TriplaneGeneratorConfig
from sds3d.guidance.multiview import MultiViewConfig
from sds3d.guidance.rules import GuidanceConfig
from sds3d.guidance.transforms import GradientTransform
from sds3d.priors.available import AnyPriorConfig
from sds3d.priors.base import Prior, PriorConfig
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.digest import model_anywhere
from sds3d.prompts.prompt import EncodedPrompt, PromptConfig, encode_each
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.run.drive import Priors
from sds3d.run.generator_pictures import encoded, objects_sheet
from sds3d.run.lessons import Teacher, numbered
from sds3d.run.optimize import OptimizerConfig, Setup, optimize, pack, random_streams, resume, start
from sds3d.run.teachers import TeacherConfig, with_own
from sds3d.states import write_tensors
from sds3d.toybox.captions import prompt, sample_spec
from sds3d.toybox.examples import OBJECTS
from sds3d.toybox.fit import Report, keep_settings
from sds3d.toybox.true_views import TrueViews

CHECKPOINT = "training.safetensors"
SETTINGS = "training.json"
RESULT = "generator"
SHOWN = 8
"""Prompts on the sheet of samples."""
_AT_ONCE = 100  # steps whose prompts are encoded together


class GeneratorTraining(Config):
    """Settings of the training of a generator."""

    generator: AnyGeneratorConfig = TriplaneGeneratorConfig()
    """The network."""
    start_from: str = ""
    """Folder of a generator of the same network whose weights this training begins with. Empty: random weights."""
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
    teachers: tuple[TeacherConfig, ...] = ()
    """Further teachers beside `prior` and `guidance`, whose gradients add up at the render: a list of {prior, guidance,
    gradient, weight, views}. The generator reads the texts of `prior` alone."""
    cameras: CameraConfig = CameraConfig()
    """The cameras of each step."""
    prompts: PromptConfig = PromptConfig()
    """How a prompt becomes a text for each view."""
    optimizer: OptimizerConfig = OptimizerConfig(warmup=200, clip_norm=1000)
    """Adam, its learning-rate schedule, and the limit on the gradient's norm. Without a limit, a few prompts with large
    gradients can make all objects vanish."""
    checkpoint_every: int = Field(default=250, ge=1)
    """Steps between checkpoints."""
    sample_every: int = Field(default=1000, ge=1)
    """Steps between sheets of samples."""

    @property
    def all_teachers(self) -> list[TeacherConfig]:
        """All teachers: its own prior and guidance, and the further ones."""
        return with_own(self.prior, self.guidance, self.gradient, self.teachers)


def train_generator(
    folder: Path,
    config: GeneratorTraining,
    report: Report,
    device: torch.device | str = "cpu",
    prior: Prior | None = None,
) -> Path:
    """Train a generator in `folder`, and return the folder `folder/generator`.

    report: called after each step. prior: that of the settings, if it is loaded already.
    Raises ConfigError if no prompts are given and the prior does not tell its words or if `start_from` holds another
    network, RunError if it holds none, ValueError if the folder was begun with other settings, PriorError, and
    NumericalError.
    """
    settings, defaults = (some.model_dump(mode="json") for some in (config, GeneratorTraining()))
    keep_settings(folder / SETTINGS, settings, {"checkpoint_every", "sample_every"}, defaults)
    device, given = torch.device(device), config.all_teachers
    held = [] if prior is None else [(config.prior, prior)]
    priors = Priors(device, held).load([teacher.prior for teacher in given])
    prior, draw = priors[0], _drawing(config)
    embedded = [Embedded(prior, teacher.guidance, config, draw) for prior, teacher in zip(priors, given, strict=True)]
    names = ["cameras", *(numbered("guidance", index) for index in range(len(given)))]
    streams = random_streams(config.seed, "network", "scene", *names)
    width = prior.encode_text([""]).hidden.shape[-1]
    network = config.generator.make(width, prior, streams["network"]).to(device)
    path = folder / CHECKPOINT
    if config.start_from and not path.exists():
        _begin_with(network, Path(config.start_from), prior)
    scene = GeneratedScene(network, streams["scene"], device, config.steps)
    rules = [teacher.guidance.make(prior) for prior, teacher in zip(priors, given, strict=True)]
    if config.pictures:
        rules[0] = TrueViews()
    teachers = [
        Teacher(prior, rule, texts.of_step(0), teacher.gradient, teacher.weight, teacher.views)
        for prior, rule, texts, teacher in zip(priors, rules, embedded, given, strict=True)
    ]
    streams = {name: streams[name] for name in names}
    if path.exists():
        state = resume(load_file(path), scene, rules, config.optimizer, streams)
    else:
        state = start(scene, config.optimizer, streams)
    steps = optimize(Setup(scene, teachers, config.steps, config.cameras, config.optimizer), state)
    while state.step < config.steps:
        for teacher, texts in zip(teachers, embedded, strict=True):
            teacher.prompt = texts.of_step(state.step)
        scene.choose(teachers[0].prompt.plain, _random(config.seed, state.step))
        step = next(steps)
        if step.step % config.sample_every == 0 or step.step == config.steps:
            _draw_samples(folder, config, network, embedded[0], step.step)
        if step.step % config.checkpoint_every == 0 or step.step == config.steps:
            write_tensors(path, pack(scene, rules, state))
        report("generator", step.step, config.steps, {name: float(value) for name, value in step.losses.items()})
    save_generator(folder / RESULT, _about(config, width), network)
    write_card(folder, prior)
    return folder / RESULT


def _begin_with(network: Generator, folder: Path, prior: Prior) -> None:
    """Give a network the weights of a trained one. Raises ConfigError if that one is another network, and RunError."""
    given = load_generator(folder, prior)
    # What all networks have in common are settings of the training, and may differ.
    kept = {name: getattr(network.config, name) for name in GeneratorConfig.model_fields if name != "name"}
    if given.config.model_copy(update=kept) != network.config or given.text_width != network.text_width:
        raise ConfigError(f"{folder} holds another network: give the `generator` settings of its {NETWORK}")
    network.load_state_dict(given.state_dict())


class Embedded:
    """The prompts of the steps, encoded for many steps at once: prior and text encoder may take turns in memory."""

    def __init__(
        self,
        prior: Prior,
        guidance: GuidanceConfig,
        config: GeneratorTraining,
        draw: Callable[[np.random.Generator], str],
    ) -> None:
        self._prior, self._guidance, self._config, self._draw = prior, guidance, config, draw
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
        unique = list(dict.fromkeys(texts))
        wanted = [self._guidance.texts(text, self._config.prompts) for text in unique]
        return dict(zip(unique, encode_each(self._prior, wanted), strict=True))

    def _text(self, step: int) -> str:
        return self._draw(np.random.default_rng([self._config.seed, step, 0]))


def _random(seed: int, step: int) -> torch.Generator:
    """Return what draws the seed and the noise of a step's object, which depend on the step alone."""
    return torch.Generator().manual_seed(int(np.random.default_rng([seed, step, 1]).integers(2**62)))


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
    rule = "true pictures" if config.pictures else config.guidance.model_dump()["name"]
    digest = config.prior.digest()
    return About(generator=config.generator, text_width=width, model=_model(config.prior), digest=digest, rule=rule)


def _model(prior: PriorConfig) -> str:
    """Return the name of a prior's model, or its kind."""
    return model_anywhere(prior.model) if isinstance(prior, DiffusersConfig) else prior.kind


def shown_texts(config: GeneratorTraining) -> Sequence[str]:
    """Return the prompts whose objects show how far a training is."""
    words = _words(config)
    if words is None or config.texts:
        return config.texts[:SHOWN]
    return [text for text in OBJECTS if text.split()[2] in words.kinds][:SHOWN]


def _draw_samples(folder: Path, config: GeneratorTraining, network: Generator, embedded: Embedded, step: int) -> None:
    """Draw what some prompts have become from four sides, into samples.png."""
    texts = {text: encoded.plain for text, encoded in embedded.of(shown_texts(config)).items()}
    objects_sheet(network, texts, f"step {step} of {config.steps}").save(folder / "samples.png")


def read_training(folder: Path) -> GeneratorTraining:
    """Read the settings of a training. Raises RunError if the folder is none, and ConfigError."""
    if not (folder / SETTINGS).is_file():
        raise RunError(f"{folder} has no {SETTINGS}: give the folder of a training by `sds3d generator train`")
    return build(GeneratorTraining, json.loads(read_plain(folder / SETTINGS)))


def write_card(folder: Path, prior: Prior) -> Path:
    """Write `CARD.md` and `samples.png` into the generator's folder of a finished training. Return the card's path.

    prior: that of the training. Raises RunError if the training is not finished, or the folder is damaged.
    """
    config, made = read_training(folder), folder / RESULT
    about, network, texts = read_about(made), load_generator(made, prior), shown_texts(config)
    objects_sheet(network, {text: encoded(prior, text) for text in texts}, size=128).save(made / "samples.png")
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    size = (made / WEIGHTS).stat().st_size / 1e6
    rule = about.rule if config.pictures else f"score distillation by the rule `{about.rule}`"
    weights = f", weights `{about.digest[:12]}`" if about.digest else ""
    further = [f"`{other.guidance.model_dump()['name']}` of `{_model(other.prior)}`" for other in config.teachers]
    words = _words(config)
    known = f"{len(config.texts)} in all, for example `{texts[0]}`"
    if words is not None and not config.texts:
        known = f"drawn from {len(words.kinds)} kinds of object in {len(words.colors)} colours; held-out ones never"
    begun = ", begun with the weights of another generator" if config.start_from else ""
    text = f"""# A generator

Trained by `sds3d generator train`. It makes the object of a prompt in one pass.

| | |
|---|---|
| prompts | {known} |
| taught by | {", ".join([rule, *further])} |
| prior | `{about.model}`{weights} |
| network | `{about.generator.name}`, {millions:.2f}M parameters, {size:.1f} MB in half precision |
| result | a scene of the representation `{about.generator.representation.name}` |
| training | {config.steps} steps of one prompt each, seed {config.seed}{begun} |

![Objects of the generator](samples.png)

One object of each prompt, with the seed 0.

## Limits

- It can only be used with the prior of the table, whose text encoder it shares. What that encoder has not learnt, it
  does not know either.
- Prompts unlike those of the training give no sensible objects.
- This card measures no quality: the picture is all that it shows.
"""
    write_atomically(made / "CARD.md", text.encode())
    return made / "CARD.md"
