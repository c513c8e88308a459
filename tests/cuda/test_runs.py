"""Runs on a GPU: no step waits, stages end in assets, they resume, several go together; the large prior's size."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.cli.main import main
from sds3d.config import build
from sds3d.evaluation.prior_speed import prior_of, random_networks
from sds3d.guidance.base import draw_noise
from sds3d.guidance.variational import TrainedScore, VariationalConfig
from sds3d.jobs.together import drive_together
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.conditioning import Conditioning
from sds3d.run.config import RunConfig, make_config, new_run
from sds3d.run.drive import Work, drive, optimize_work, start_work
from sds3d.run.folder import Run, read_checkpoint
from sds3d.run.optimize import pack
from sds3d.updates import skipped_if

PROMPT = "a red mug"
SCENES = ["voxel_grid", "hash_nerf", "triplane_nerf", "tensor_nerf", "mlp_nerf", "gaussians", "mesh"]
SHORT = ("steps=6", "checkpoint_every=3", "preview_every=1000", "export.resolution=32", "export.texture_size=64",
         "export.picture_size=64", "export.frames=4", "export.formats=[ply]")  # fmt: skip


@pytest.fixture(scope="module")
def toybox(gpu: torch.device) -> Prior:
    return DiffusersConfig().load(gpu)


def work_of(representation: str, prior: Prior, *settings: str) -> Work:
    config = make_config(PROMPT, "toybox", [f"representation={representation}", "steps=1000", *settings])
    return start_work(config, [prior])


@pytest.mark.parametrize("representation", ["voxel_grid", "gaussians"])
@pytest.mark.parametrize("rule", ["multiview", "vsd"])
def test_no_step_waits(representation: str, rule: str, toybox: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA raises an error at whatever waits. Only the numbers do, which are read afterwards."""
    work = work_of(representation, toybox, f"guidance={rule}")
    walk = optimize_work(work)
    for _ in range(6):  # compiles, and records the prior's calls
        next(walk)
    work.state.settle()
    work.state.take()
    monkeypatch.setattr("sds3d.run.optimize.READ_EVERY", 1e9)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(9):
            next(walk)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    work.state.settle()
    assert len(work.state.take()) == 9


@pytest.mark.parametrize("representation", ["hash_nerf", "triplane_nerf", "tensor_nerf", "mlp_nerf"])
def test_steps_of_fields_wait_only_for_the_number_of_samples(
    representation: str, toybox: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = optimize_work(work_of(representation, toybox))
    for _ in range(6):
        next(walk)
    monkeypatch.setattr("sds3d.run.optimize.READ_EVERY", 1e9)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(8):
                next(walk)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in caught if "synchroniz" in str(w.message)]) <= 8


@pytest.mark.parametrize("representation", SCENES)
def test_a_run_ends_in_an_asset_and_resumes(representation: str, tmp_path: Path) -> None:
    """A resumed run draws the same noise: its result differs only by the order in which the GPU adds gradients."""
    settings = [*SHORT, f"representation={representation}", "optimizer.eps=1e-6"]
    whole, parts = (new_run(tmp_path / name, make_config(PROMPT, "toybox", settings)) for name in ("a", "b"))
    assert len(list(drive(whole, device="cuda"))) == 6
    for step in drive(parts, device="cuda"):
        if step.step == 3:
            break
    assert [step.step for step in drive(parts, device="cuda")] == [4, 5, 6]
    assert whole.state.status == parts.state.status == "done"
    assert any(whole.exports.iterdir())
    events = [[event["step"] for event in run.events()] for run in (whole, parts)]
    assert events == [[1, 2, 3, 4, 5, 6]] * 2
    ours, theirs = (read_checkpoint(run.checkpoints[0]) for run in (whole, parts))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        if key.startswith("generator/"):
            assert torch.equal(value, theirs[key]), key
        elif key.startswith("scene/") and value.is_floating_point() and value.shape == theirs[key].shape:
            assert value.isfinite().all()
            assert (value - theirs[key]).norm() <= 0.05 * value.norm() + 1e-6, key


def test_noise_is_drawn_on_the_device_from_the_runs_stream(gpu: torch.device) -> None:
    x = torch.empty(4, 4, 32, 32, device=gpu)
    first, second = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    noise = [draw_noise(x, first), draw_noise(x, first)]
    assert noise[0].device.type == "cuda"
    assert torch.equal(noise[0], draw_noise(x, second))
    assert torch.equal(noise[1], draw_noise(x, second))
    assert not torch.equal(*noise)
    assert abs(noise[0].mean()) < 0.05
    assert abs(noise[0].std() - 1) < 0.05


@torch.no_grad()
def test_recorded_calls_of_the_prior_give_what_calls_give(gpu: torch.device) -> None:
    prior = DiffusersConfig(dtype="float32").load(gpu)
    draws = torch.Generator().manual_seed(0)
    given = [
        (torch.randn(4, 12, 16, 16, generator=draws).to(gpu), torch.rand(4, generator=draws).to(gpu),
         Conditioning(torch.randn(4, 24, 128, generator=draws).to(gpu)), None)
        for _ in range(4)
    ]  # fmt: skip
    replayed = [prior.predict(*one) for one in given]
    assert [graph is not None for graph in prior.denoiser.graphs._graphs.values()] == [True]
    prior.denoiser.graphs._failed = True
    for mine, one in zip(replayed, given, strict=True):
        plain = prior.predict(*one)
        torch.testing.assert_close(mine.eps, plain.eps, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(mine.x0, plain.x0, rtol=1e-3, atol=1e-3)


def test_recorded_updates_of_phi_are_the_updates(gpu: torch.device) -> None:
    prior = DiffusersConfig(dtype="float32").load(gpu)
    states = []
    for recorded in (True, False):
        phi, draws = TrainedScore(VariationalConfig(camera_dropout=0), prior), torch.Generator().manual_seed(0)
        assert phi._graphs is not None
        phi._graphs._failed = not recorded
        cond = Conditioning(torch.randn(4, 24, 128, generator=draws).to(gpu))
        for _ in range(4):
            x = torch.randn(4, 12, 16, 16, generator=draws).to(gpu)
            with skipped_if(torch.zeros((), device=gpu)):
                phi.update(x, turntable(4), cond, cond, draws)
        assert [graph is not None for graph in phi._graphs._graphs.values()] == ([True] if recorded else [])
        states.append(phi.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-2, atol=1e-4)


def test_runs_go_together(toybox: Prior) -> None:
    settings = [{"prompt": PROMPT, "seed": seed} for seed in range(3)]

    def states(together: bool) -> list[dict[str, torch.Tensor]]:
        works = [work_of("voxel_grid", toybox, f"seed={one['seed']}", "optimizer.eps=1e-6") for one in settings]
        results = {}

        def task(index: int):
            def run(priors) -> None:
                work = start_work(works[index].config, priors)
                for step in optimize_work(work):
                    if step.step == 4:
                        break
                work.state.settle()
                results[index] = pack(work.scene, work.rules, work.state)

            return run

        tasks = [task(index) for index in range(3)]
        if together:
            drive_together([toybox], tasks)
        else:
            for one in tasks:
                one([toybox])
        return [results[index] for index in range(3)]

    for ours, theirs in zip(states(True), states(False), strict=True):
        for name in ("scene/density", "scene/color"):
            assert (ours[name] - theirs[name]).norm() < 0.02 * theirs[name].norm()


@pytest.mark.parametrize("rule", ["sds", "vsd"])
def test_steps_of_stable_diffusions_size(rule: str, gpu: torch.device) -> None:
    """Finite numbers, and less than 10 GB at 512 pixels."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    prior = prior_of(random_networks(gpu, torch.bfloat16), 512)
    settings = {
        "prompt": PROMPT, "steps": 100, "guidance": {"name": rule}, "representation": {"name": "hash_nerf"},
        "cameras": {"views": 1, "size": 512},
    }  # fmt: skip
    work = start_work(build(RunConfig, settings), [prior])
    walk = optimize_work(work)
    known = []
    for _ in range(4):
        next(walk)
        known += work.state.take()
    work.state.settle()
    known += work.state.take()
    assert [numbers.step for numbers in known] == [1, 2, 3, 4]
    assert all(0 < numbers.grad_norm < 1e8 for numbers in known)
    assert torch.cuda.max_memory_allocated() < 10e9


def test_a_fault_leaves_the_last_good_state(toybox: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters never take a bad value, though several steps are queued before the host reads the numbers."""
    monkeypatch.setattr("sds3d.run.optimize.READ_EVERY", 1e9)
    work = work_of("voxel_grid", toybox)
    walk = optimize_work(work)
    for _ in range(3):
        next(walk)
    good = {name: value.clone() for name, value in work.scene.state_dict().items()}
    encode = toybox.encode_image
    monkeypatch.setattr(toybox, "encode_image", lambda rgb: encode(rgb) * float("nan"))
    for _ in range(3):
        next(walk)
    with pytest.raises(ArithmeticError, match="step 4: "):
        work.state.settle()
    assert work.state.step == 3
    after = work.scene.state_dict()
    assert all(torch.equal(after[name], good[name]) for name in ("density", "color"))


def test_the_command_runs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["generate", PROMPT, "--device", "cuda", "--out", str(tmp_path), *SHORT])
    (folder,) = tmp_path.iterdir()
    assert Run(folder).state.device == "cuda:0"
