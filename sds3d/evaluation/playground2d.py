"""The 2D playground: a rule optimises plain pictures, or a prior's latents, instead of renders of a scene.

In seconds and without 3D, it shows what a rule does to a picture: how sharp and how saturated pictures become, and how
much pictures of one prompt differ, as in the first experiments of ProlificDreamer (arXiv:2305.16213). The loop, the
rules and the priors are those of a run; only the scene is flat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sds3d.cameras import CameraConfig, Cameras, turntable
from sds3d.config import ConfigError, nearest, parse_override
from sds3d.console import StageReport
from sds3d.devices import pick_device, set_threads
from sds3d.files import write_atomically
from sds3d.formats.pictures import contact_sheet, png, stacked, to_png
from sds3d.geometry.mesh import EmptySurfaceError, FloatArray, Mesh
from sds3d.guidance.base import Guidance, Guided, Views
from sds3d.guidance.rules import rule_configs
from sds3d.presets import RENAMED, presets
from sds3d.priors.base import Prior, PriorConfig
from sds3d.prompts.prompt import encode_texts
from sds3d.representations.base import Rendering, Scene
from sds3d.run.config import RunConfig, make_config, run_config, stage_config
from sds3d.run.lessons import Teacher
from sds3d.run.optimize import Setup, Step, optimize, random_streams, start
from sds3d.run.prompt_picture import embedded, read_prompt_picture

RATES = {"latents": 0.05, "pixels": 0.02}
"""Learning rates by the space in which pictures are optimised."""

ACROSS, TILE = 7, 150
"""Number of rules per line of the sheet, and pixels per side of each picture."""


class Pictures(Scene):
    """A scene of B flat pictures, one for each view of a step, whatever its camera.

    values: (B, C, h, w) in the prior's space, starting at 0, or (B, S, S, 3) colours, starting at grey. All start
    equal, since each gets different noise. The pictures are opaque and have depth 0: they have no surface to which
    noise could be locked.
    """

    def __init__(self, prior: Prior, count: int, space: str) -> None:
        self.prior, self.space = prior, space
        values = torch.full((count, prior.image_size, prior.image_size, 3), 0.5)
        if space == "latents":
            with torch.no_grad():
                values = torch.zeros(prior.encode_image(values.to(prior.device)).shape)
        self.values = torch.nn.Parameter(values.to(prior.device))

    def render(self, cameras: Cameras, background: Tensor) -> Rendering:
        """Return the pictures, without the background. Latents are only decoded outside of steps, which get black."""
        latent = self.values if self.space == "latents" else None
        if latent is None:
            rgb = self.values  # (B, S, S, 3)
        elif torch.is_grad_enabled():
            rgb = torch.zeros(len(latent), self.prior.image_size, self.prior.image_size, 3, device=latent.device)
        else:
            rgb = self.prior.decode(latent).float()
        nothing = torch.zeros_like(rgb[..., :1])
        return Rendering(rgb, nothing + 1, nothing, torch.zeros_like(rgb), latent)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the values as one group."""
        return [{"params": [self.values], "lr": RATES[self.space]}]

    def regularisers(self, rendering: Rendering, progress: float) -> dict[str, Tensor]:
        """Return no losses."""
        return {}

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Do nothing."""

    def to_mesh(self, resolution: int) -> Mesh:
        """Raise EmptySurfaceError, since a picture has no surface."""
        raise EmptySurfaceError("a picture has no surface")

    def state_dict(self) -> dict[str, Tensor]:
        """Return the values."""
        return {"values": self.values.detach().clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state of `state_dict`."""
        with torch.no_grad():
            self.values.copy_(state["values"])


class FromTheFront(Guidance):
    """A rule for which every picture is a view from the front."""

    def __init__(self, rule: Guidance, space: str) -> None:
        self.rule, self.space = rule, space

    def __call__(self, x: Tensor, views: Views, progress: float, generator: torch.Generator) -> Guided:
        """Return one step of the rule. In latent space its target in pixels is dropped: decoding has no gradient here.

        Raises ValueError if the rule has only a target in pixels.
        """
        front = turntable(1, elevation=0.0, size=views.cameras.height)[torch.zeros(len(x), dtype=torch.long)]
        guided = self.rule(x, replace(views, cameras=front.to(x.device)), progress, generator)
        if self.space == "latents" and guided.image_target is not None:
            if guided.gradient is None:
                raise ValueError("this rule changes only pixels: add --space pixels")
            guided = replace(guided, image_target=None)
        return guided


def rule_names() -> list[str]:
    """Return the names of all rules."""
    return [str(config.model_fields["name"].default) for config in rule_configs()]


def rule_config(name: str, prompt: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the settings of a rule.

    name: of a rule, for the settings of its paper, or of a preset, for those of its first stage. A rule comes first.
    Raises ConfigError, with the nearest rule or preset, for an unknown name, and for a wrong override.
    """
    if name not in rule_names():
        known = [preset.name for preset in presets() if not preset.about.needs_asset and preset.about.group != "real"]
        if name in known or name in RENAMED:
            return stage_config(make_config(prompt, name, list(overrides)), 0)
        close = nearest(name, [*rule_names(), *known])
        hint = f'did you mean "{close[0]}"?' if close else f"use all, or some of: {', '.join(rule_names())}"
        raise ConfigError(f'there is no rule or preset "{name}"; {hint}')
    plain = {"prompt": prompt, "guidance": {"name": name}, "prompts": {"view_dependent": False}}
    try:
        return run_config(plain, *(parse_override(text) for text in overrides))
    except ConfigError as error:
        raise ConfigError(f"rule {name}: {error}") from None


def drawing(prior: Prior, config: RunConfig, count: int, space: str) -> tuple[Pictures, Iterator[Step]]:
    """Return `count` pictures, and the steps in which a rule changes them; see `draw`."""
    if config.rewards:
        raise ConfigError("rewards: plain pictures have none; leave it out")
    if config.estimators:
        raise ConfigError("estimators: plain pictures have no normals; leave it out")
    generators = random_streams(config.seed, "cameras", "guidance")
    scene = Pictures(prior, count, space)
    rule = config.guidance.in_prior_space() if space == "latents" else config.guidance
    picture = read_prompt_picture(config.prompts)
    prompt = encode_texts(prior, rule.texts(config.prompt, config.prompts), embedded(prior, picture))
    setup = Setup(
        scene,
        [Teacher(prior, FromTheFront(rule.make(prior), space), prompt, config.gradient)],
        steps=config.steps,
        cameras=CameraConfig(views=count, orthogonal=False, size=max(prior.image_size, 8)),
        optimizer=config.optimizer,
    )
    return scene, optimize(setup, start(scene, config.optimizer, generators))


def draw(
    prior: Prior,
    config: RunConfig,
    *,
    count: int = 1,
    space: str = "latents",
    report: Callable[[Step], None] = lambda step: None,
) -> FloatArray:
    """Optimise `count` pictures with a rule and return them, (count, S, S, 3) float32 in [0, 1].

    The pictures share a rule's networks. Only prompt, prompts, guidance, gradient, optimizer, seed and steps of the
    configuration are used. Raises ValueError if the rule cannot work on such pictures, NumericalError if it diverges.
    """
    scene, steps = drawing(prior, config, count, space)
    for step in steps:
        report(step)
    with torch.no_grad():
        return scene.render(turntable(count), torch.ones(3)).rgb.clamp(0, 1).cpu().numpy()


def compare(
    prompt: str,
    names: Sequence[str],
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    space: str = "latents",
    count: int = 1,
    report: StageReport,
    device: str = "",
    threads: int = 0,
) -> dict[Path, float]:
    """Draw with each rule. Write its pictures, and the sheet of all rules so far, after each.

    names: of rules or presets; "all" stands for every rule. overrides: KEY=VALUE for all of them. A multi-view prior is
    used as a plain 2D one. Returns the files and the seconds that each took. Raises what `rule_config` and `draw`
    raise, and PriorError.
    """
    if space not in RATES:
        raise ConfigError(f'the space "{space}" is unknown; use one of: {", ".join(RATES)}')
    every = dict.fromkeys(one for name in names for one in (rule_names() if name == "all" else [name]))
    configs = {name: rule_config(name, prompt, overrides) for name in every}
    if any(config.teachers for config in configs.values()):
        raise ConfigError("the playground draws by one rule: remove teachers")
    set_threads(threads)
    place = pick_device(device)
    loaded: tuple[PriorConfig, Prior] | None = None
    drawn: dict[str, FloatArray] = {}
    written: dict[Path, float] = {}
    began = time.monotonic()
    for name, config in configs.items():
        flat = config.prior.view_by_view()
        if loaded is None or loaded[0] != flat:
            loaded = flat, flat.load(place)
        start_of_rule = time.monotonic()

        def say(step: Step, name: str = name) -> None:
            report(name, step.step, step.total)

        drawn[name] = draw(loaded[1], config, count=count, space=space, report=say)
        path = write_atomically(folder / f"{name}.png", to_png(drawn[name]))
        written[path] = time.monotonic() - start_of_rule
        write_atomically(folder / "sheet.png", png(sheet(drawn, prompt)))
    return written | {folder / "sheet.png": time.monotonic() - began}


def sheet(drawn: Mapping[str, FloatArray], title: str) -> Image.Image:
    """Return a sheet of each rule's pictures (count, S, S, 3) under its name, with ACROSS rules in a line."""
    names = list(drawn)
    lines = [names[i : i + ACROSS] for i in range(0, len(names), ACROSS)]
    blocks = [
        contact_sheet(
            [("", np.stack(pictures)) for pictures in zip(*(drawn[name] for name in line), strict=True)],
            line,
            title if line is lines[0] else "",
            TILE,
        )
        for line in lines
    ]
    return stacked(blocks)
