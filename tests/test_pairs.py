"""Every combination of guidance, representation and prior takes finite steps that change the scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.config import build
from sds3d.guidance.rules import rule_configs
from sds3d.plugins import name_of
from sds3d.presets import presets
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.run.config import RunConfig, make_config, stage_config, stage_count
from sds3d.run.drive import start_work
from sds3d.run.optimize import NumericalError, Setup, optimize, pack
from tests.guidance.fewest import of_each_path
from tests.priors.test_diffusers import tiny_pipeline
from tests.run.tiny_runs import disc

PROMPT = "a ball"
RULES: dict[str, dict[str, Any]] = {name_of(rule): {"name": name_of(rule)} for rule in rule_configs()}
"""Every rule with its own settings."""
VOXELS = {"resolution": 8}
REPRESENTATIONS: dict[str, dict[str, Any]] = {
    "voxel_grid": {"name": "voxel_grid", "resolution": 16, "samples": 16},
    "hash_nerf": {"name": "hash_nerf", "samples": 16, "levels": 3, "log2_entries": 9, "hidden": 8},
    "triplane_nerf": {"name": "triplane_nerf", "samples": 16, "resolution": 16, "features": 8, "hidden": 8},
    "tensor_nerf": {"name": "tensor_nerf", "samples": 16, "resolution": 16, "feature_components": 8, "hidden": 8},
    "mlp_nerf": {"name": "mlp_nerf", "samples": 16, "frequencies": 2, "hidden": 8},
    "gaussians": {"name": "gaussians", "count": 200},
    "dmtet": {"name": "mesh", "geometry": {"resolution": 16}, "appearance": VOXELS},
    "flexicubes": {"name": "mesh", "geometry": {"name": "flexicubes", "resolution": 12}, "appearance": VOXELS},
    "fixed mesh": {"name": "mesh", "geometry": {"name": "fixed", "resolution": 12}, "appearance": VOXELS},
}
PRIORS: dict[str, Callable[[Path], Prior]] = {
    "pixels": lambda folder: disc(),
    "latents": lambda folder: DiffusersConfig(model=str(folder)).load(),
    "views together": lambda folder: DiffusersConfig(model="toybox").load(),
}


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prior]:
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline("v_prediction").save_pretrained(folder)
    return {name: make(folder) for name, make in PRIORS.items()}


def guidance_of_presets() -> dict[str, dict[str, Any]]:
    """Return further settings of rules from presets and their stages. Each takes its own path through a rule."""
    found: dict[str, dict[str, Any]] = {name_of(rule): rule().model_dump() for rule in rule_configs()}
    for preset in presets():
        if preset.about.group == "real":
            continue  # they have tests of their own
        config = make_config(PROMPT, preset.name, ["start_from=FILE"])
        for stage in range(stage_count(config)):
            found[f"{preset.name} {stage}"] = stage_config(config, stage).guidance.model_dump()
    return {name: settings for name, settings in of_each_path(found).items() if name not in RULES}


PRESETS = guidance_of_presets()
GUIDANCE = RULES | PRESETS
FIRST_RULE = next(iter(RULES))
# The first rule is enough for the scene of `hash_nerf` with other fields, and that of `dmtet` with other geometries.
ALIKE = ("triplane_nerf", "tensor_nerf", "mlp_nerf", "flexicubes", "fixed mesh")
TRIPLES = [
    (guidance, representation, prior)
    for guidance in RULES
    for representation in REPRESENTATIONS
    for prior in PRIORS
    # All pairs, and all triples with the first rule or with the prior without a network.
    if guidance == FIRST_RULE or representation not in ALIKE
    if prior == "pixels" or representation == "voxel_grid" or guidance == FIRST_RULE
] + [(guidance, "voxel_grid", "latents") for guidance in PRESETS]
"""The tested combinations. Rules depend neither on the representation nor on the kind of prior."""


@pytest.mark.parametrize(("guidance", "representation", "prior"), TRIPLES)
def test_every_triple(guidance: str, representation: str, prior: str, priors: dict[str, Prior]) -> None:
    model = priors[prior]
    config = build(
        RunConfig,
        {
            "prompt": PROMPT,
            "cameras": {"size": 16},
            "prompts": {"view_dependent": False},
            "guidance": GUIDANCE[guidance],
            "representation": REPRESENTATIONS[representation],
        },
    )
    work = start_work(config, [model])
    before = work.scene.state_dict()
    setup = Setup(work.scene, work.teachers, 2, config.cameras, config.optimizer)
    steps = list(optimize(setup, work.state))
    assert [step.step for step in steps] == [1, 2]
    after = work.scene.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    parameters = [p for group in work.scene.parameter_groups() for p in group["params"]]
    assert any(not torch.equal(after[name], value) for name, value in before.items() if value.is_floating_point())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    assert steps[-1].rendering.rgb.shape == (config.cameras.views, 16, 16, 3)


@pytest.mark.parametrize("guidance", GUIDANCE)
def test_a_failing_step_changes_nothing(guidance: str, priors: dict[str, Prior]) -> None:
    settings = {
        "prompt": PROMPT,
        "guidance": GUIDANCE[guidance],
        "representation": REPRESENTATIONS["voxel_grid"],
        "cameras": {"size": 8},
    }
    model, config = priors["pixels"], build(RunConfig, settings)
    work = start_work(config, [model])

    def continue_to(steps: int, most: float) -> None:
        optimizer = config.optimizer.model_copy(update={"max_grad_norm": most})
        setup = Setup(work.scene, work.teachers, steps, config.cameras, optimizer)
        list(optimize(setup, work.state))

    continue_to(1, most=1e8)
    before = {name: value.clone() for name, value in pack(work.scene, work.rules, work.state).items()}
    with pytest.raises(NumericalError, match="step 2: the gradient's norm"):
        continue_to(2, most=1e-30)
    after = pack(work.scene, work.rules, work.state)
    assert after.keys() == before.keys()
    assert [name for name, value in before.items() if not torch.equal(after[name], value)] == []
