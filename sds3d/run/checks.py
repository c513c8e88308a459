"""Checks of a stage's settings against its loaded priors, before the first step."""

from __future__ import annotations

from collections.abc import Sequence

from sds3d.cameras import CameraConfig
from sds3d.config import ConfigError
from sds3d.priors.base import Prior, space_of
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.run.config import RunConfig, mismatch, model_of

WASTE = 2
"""Warn of renders that are more than this many times as high as the prior's pictures."""


def prior_problems(config: RunConfig, priors: Sequence[Prior]) -> list[str]:
    """Return warnings, one line each, about a stage whose settings do not suit its priors.

    priors: those of `RunConfig.all_teachers`. Raises ConfigError for views that a prior cannot denoise together,
    for a picture that no prior takes or that is missing, and for settings of `seen` that do not suit a prior.
    """
    _check_picture(config, priors)
    if config.seen.mirrored and any(prior.takes_cameras for prior in priors):
        raise ConfigError("seen.mirrored: the prior takes cameras, which see no mirrored object: set it to 0")
    if config.seen.normal_latents and (channels := space_of(priors[0])[0]) != 4:
        raise ConfigError(f"seen.normal_latents is for priors with 4 latents, and this has {channels}: set it to 0")
    own, parts = priors[0], [now for _, now in config.cameras.parts(priors[0].image_size)]
    for teacher, prior in zip(config.all_teachers, priors, strict=True):
        _check_views(parts, teacher.views, prior)
    problems = [_wrong_kind(config, own), _blind(config, priors), _wordless(config, priors), _too_large(parts, priors)]
    if config.representation.renders_latents and not getattr(config.representation, "refine", False):
        problems.append(_wrong_latents(parts, own))
    return [problem for problem in problems if problem]


def _check_views(parts: Sequence[CameraConfig], seen: int | None, prior: Prior) -> None:
    asked = [("cameras.views", now.views) for now in parts] + ([("teachers.views", seen)] if seen else [])
    for name, views in asked:
        if views % prior.n_views:
            raise ConfigError(
                f"a step has {views} views, but the prior denoises {prior.n_views} together: make {name} a multiple of "
                f"{prior.n_views} in all phases"
            )


def _check_picture(config: RunConfig, priors: Sequence[Prior]) -> None:
    """Raise ConfigError if a picture reaches no prior, or if a prior takes a picture and there is none."""
    taken = any(prior.takes_pictures for prior in priors)
    if config.prompts.image and not taken:
        raise ConfigError(
            f"prompts.image: {model_of(config)} takes no pictures: remove it, or give a prior that does, for example "
            "Stable Diffusion with prior.ip_adapter=FILE, or one by sds3d toybox train --pictures"
        )
    # Those of the toy world are the prior that they were trained from where there is no picture.
    optional = [isinstance(prior, DiffusersPrior) and prior.picture_adapter is not None for prior in priors]
    if taken and not config.prompts.image and not all(optional):
        raise ConfigError("the prior takes a picture beside the text: set prompts.image, or remove prior.ip_adapter")


def _wrong_kind(config: RunConfig, prior: Prior) -> str:
    together = prior.n_views > 1
    if config.prior.kind == "diffusers" and config.made_for == ("diffusers" if together else "multiview"):
        return mismatch(config)
    return ""


def _blind(config: RunConfig, priors: Sequence[Prior]) -> str:
    if config.prompts.view_dependent is not False or any(prior.takes_cameras for prior in priors):
        return ""
    return (
        f"{model_of(config)} takes no cameras and the texts have no view words, so every side becomes a front: "
        "set prompts.view_dependent=auto"
    )


def _wordless(config: RunConfig, priors: Sequence[Prior]) -> str:
    prompts = config.prompts
    if prompts.view_dependent != "auto" or not all(prior.takes_cameras for prior in priors):
        return ""
    wanted = {"perp_neg.strength": prompts.perp_neg.strength, "interpolate": prompts.interpolate}
    if not (names := [f"prompts.{name}" for name, value in wanted.items() if value]):
        return ""
    have = "has" if len(names) == 1 else "have"
    return (
        f"{' and '.join(names)} {have} no effect: texts have no view words, because the prior takes cameras; "
        "set prompts.view_dependent=true, or remove the setting"
    )


def _too_large(parts: Sequence[CameraConfig], priors: Sequence[Prior]) -> str:
    largest, pictures = max(now.size for now in parts), max(prior.image_size for prior in priors)
    if largest <= WASTE * pictures:
        return ""
    return f"renders of {largest} px are reduced to the {pictures} px of the prior's pictures: lower cameras.size"


def _wrong_latents(parts: Sequence[CameraConfig], prior: Prior) -> str:
    _, _, size = space_of(prior)
    sizes = sorted({now.size for now in parts} - {size})
    if not sizes:
        return ""
    return f"the scene renders latents of {sizes[0]} px, but the prior's have {size}: set cameras.size={size}"
