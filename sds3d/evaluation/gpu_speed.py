"""What a GPU makes of a step: rules and U-Net beside plain diffusers calls, renderers, whole steps, runs together.

Networks of Stable Diffusion 2.1's size have random weights, since the cost of a step does not depend on them. Steps are
timed in blocks that end with a wait for the device, as in a run, which waits a few times a second.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sds3d.cameras import turntable
from sds3d.config import build
from sds3d.devices import pick_device, set_threads
from sds3d.evaluation import together_speed
from sds3d.evaluation.kernel_speed import interleaved, machine
from sds3d.evaluation.prior_speed import PROMPT, Networks, Rule, our_steps, plain_steps, prior_of, random_networks
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import RunError
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.priors.loading import pick_dtype
from sds3d.prompts.conditioning import Conditioning
from sds3d.representations.base import Scene, Start
from sds3d.representations.make import make_scene
from sds3d.run.config import RunConfig, make_config
from sds3d.run.drive import optimize_work, start_work

SMOOTH = 8
"""Steps before those that are measured: the first ones compile, and record the prior's calls."""


@dataclass(frozen=True)
class Sizes:
    """What is measured. The defaults suit a GPU; `TINY` runs the same code on a CPU in seconds.

    seconds: time for each call. block: steps between two waits for the device. smaller: see `random_networks`. picture:
    pixels per side of the large prior's pictures. batches: pictures of its steps. rows: of the U-Net's calls, which has
    latents of `latents` per side. renders: representation, views and pixels per side. toys: representations whose steps
    with the embedded prior are measured. whole: representation, rule and pixels per side of steps with the large prior.
    together: numbers of runs.
    """

    seconds: float = 1.5
    block: int = 10
    smaller: int = 1
    picture: int = 512
    batches: tuple[int, ...] = (1, 4)
    rows: tuple[int, ...] = (2, 8, 16)
    latents: int = 64
    renders: tuple[tuple[str, int, int], ...] = (
        ("voxel_grid", 4, 64), ("voxel_grid", 4, 256), ("hash_nerf", 4, 64), ("hash_nerf", 1, 512),
        ("gaussians", 4, 64), ("gaussians", 1, 512), ("mesh", 4, 128), ("mesh", 4, 512),
    )  # fmt: skip
    toys: tuple[str, ...] = ("voxel_grid", "hash_nerf", "gaussians")
    whole: tuple[tuple[str, Rule, int], ...] = (
        ("voxel_grid", "sds", 64), ("hash_nerf", "sds", 64), ("hash_nerf", "sds", 512), ("gaussians", "sds", 512),
        ("hash_nerf", "vsd", 512),
    )  # fmt: skip
    together: tuple[int, ...] = (1, 8, 32)


TINY = Sizes(
    seconds=0.01,
    block=1,
    smaller=16,
    picture=64,
    batches=(1,),
    rows=(2,),
    latents=8,
    renders=(("voxel_grid", 1, 8), ("gaussians", 1, 8)),
    toys=("voxel_grid",),
    whole=(("voxel_grid", "vsd", 8),),
    together=(2,),
)


@dataclass(frozen=True)
class Row:
    """A measurement.

    ours, plain: median seconds, plain by diffusers' own calls or one run after another; None: nothing to compare with.
    memory: peak of the device's memory in bytes of our own; None if it was not measured. note: other figures.
    """

    what: str
    ours: float
    plain: float | None = None
    memory: int | None = None
    note: str = ""


def bench(
    root: Path,
    *,
    device: str = "",
    threads: int = 0,
    sizes: Sizes = Sizes(),
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> list[Row]:
    """Measure everything. Write gpu.json and gpu.md into `root`, anew after each row. Raises RunError without a GPU."""
    place = pick_device(device)
    if place.type == "mps" or (place.type == "cpu" and not device):
        raise RunError("this measures a GPU, and torch finds none: see sds3d doctor")
    here = asdict(machine(set_threads(threads)))
    about = {"machine": here, "device": str(place), "torch": torch.__version__, "sizes": asdict(sizes)}
    rows: list[Row] = []
    parts = (guidance, unet, renders, toy_steps, whole_steps, together)
    for i, part in enumerate(parts):
        report(part.__name__.replace("_", " "), i, len(parts))
        for row in part(sizes, place):
            rows.append(row)
            write_results(root, "gpu", about | {"rows": [asdict(row) for row in rows]}, table(rows))
        free()
    report("done", len(parts), len(parts))
    return rows


def guidance(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Steps of SDS and VSD on plain pictures, beside the same steps of a script with diffusers' calls."""
    for rule in ("sds", "vsd"):
        for batch in sizes.batches:
            networks = networks_of(sizes, device)
            with Peak(device) as peak:
                walk = our_steps(networks, rule, batch, sizes.picture)
                smooth(walk, device)
            calls = [
                block(steps, sizes.block, device) for steps in (walk, plain_steps(networks, rule, batch, sizes.picture))
            ]
            ours, plain = interleaved(calls, sizes.seconds)
            title = f"{rule.upper()}, {batch} of {sizes.picture} px"
            yield Row(title, ours / sizes.block, plain / sizes.block, peak.bytes)
            del networks, walk, calls
            free()


def unet(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Calls of the U-Net without gradients, and the arithmetic per second that they reach."""
    networks = networks_of(sizes, device)
    prior = prior_of(networks, sizes.picture)
    for rows in sizes.rows:
        yield unet_row(networks, prior, rows, sizes)


@torch.no_grad()
def unet_row(networks: Networks, prior: Prior, rows: int, sizes: Sizes) -> Row:
    """Measure calls of `rows` latents."""
    device, dtype, width = networks.device, networks.unet.dtype, networks.unet.config["cross_attention_dim"]
    x, t = torch.randn(rows, 4, sizes.latents, sizes.latents, device=device), torch.rand(rows, device=device)
    cond = Conditioning(torch.randn(rows, 77, width, device=device))
    inputs, hidden = (x.to(dtype), (999 * t).round()), cond.hidden.to(dtype)

    def plain_call() -> object:
        return networks.unet(*inputs, encoder_hidden_states=hidden)

    with FlopCounterMode(display=False) as counter:
        plain_call()
    calls = [repeated(lambda: prior.predict(x, t, cond, None), sizes.block), repeated(plain_call, sizes.block)]
    ours, plain = (
        seconds / sizes.block for seconds in interleaved([waiting(call, device) for call in calls], sizes.seconds)
    )
    work = counter.get_total_flops() / 1e12
    note = f"{work / ours:.3g} TFLOP/s, plain {work / plain:.3g}"
    return Row(f"U-Net, {rows} rows of {sizes.latents} x {sizes.latents} latents", ours, plain, note=note)


def renders(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Renders and their gradients, without guidance."""
    for name, views, size in sizes.renders:
        scene = scene_of(name, device)
        cameras = turntable(views, size=size).to(device)
        behind = torch.zeros(3, device=device)

        def once(scene: Scene = scene, cameras: Any = cameras, behind: torch.Tensor = behind) -> None:
            shown = scene.render(cameras, behind)
            (shown.rgb.mean() + shown.alpha.mean()).backward()

        with Peak(device) as peak:
            repeated(once, 2)()
        (seconds,) = interleaved([waiting(repeated(once, sizes.block), device)], sizes.seconds)
        yield Row(f"render {name}, {views} of {size} px, with gradients", seconds / sizes.block, memory=peak.bytes)


def toy_steps(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Whole steps with the embedded prior: the preset `toybox` with other representations."""
    prior = DiffusersConfig().load(device)
    for name in sizes.toys:
        settings = [f"representation={name}", "steps=1000000"]
        yield steps_row(f"step of toybox, {name}", make_config("a red mug", "toybox", settings), prior, sizes, device)


def whole_steps(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Whole steps with one view and the large prior."""
    for name, rule, size in sizes.whole:
        prior = prior_of(networks_of(sizes, device), sizes.picture)
        settings = {
            "prompt": PROMPT,
            "steps": 1_000_000,
            "guidance": {"name": rule},
            "representation": {"name": name},
            "cameras": {"views": 1, "size": size},
        }
        config = build(RunConfig, settings)
        yield steps_row(f"step of {rule.upper()}, {name}, 1 of {size} px", config, prior, sizes, device)
        del prior
        free()


def together(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Runs of the preset `toybox` in one process, per step and run, beside one run after another."""
    prior, config = DiffusersConfig().load(device), make_config("a red mug", "toybox", [])
    for gain in together_speed.measure("toybox", config, lambda settings: [prior], sizes.together, 4 * sizes.seconds):
        yield Row(f"{gain.count} toybox runs together", gain.together, gain.alone)


def steps_row(title: str, config: RunConfig, prior: Prior, sizes: Sizes, device: torch.device) -> Row:
    """Measure steps of a run, after some first ones."""
    walk = optimize_work(start_work(config, [prior]))
    with Peak(device) as peak:
        smooth(walk, device)
    (seconds,) = interleaved([block(walk, sizes.block, device)], sizes.seconds)
    return Row(title, seconds / sizes.block, memory=peak.bytes)


def networks_of(sizes: Sizes, device: torch.device) -> Networks:
    """Return networks of Stable Diffusion 2.1's architecture in the type that runs compute in."""
    return random_networks(device, pick_dtype("auto", device), sizes.smaller)


def scene_of(name: str, device: torch.device) -> Scene:
    """Return a new scene with the representation's own settings."""
    config = build(RunConfig, {"prompt": PROMPT, "representation": {"name": name}}).representation
    return make_scene(config, Start(torch.Generator().manual_seed(0), 1000, device))


class Peak:
    """Measures the peak of a device's memory in a block. bytes: None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, None

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.bytes: int | None = torch.cuda.max_memory_allocated(self.device)


def repeated(call: Callable[[], object], count: int) -> Callable[[], None]:
    """Return a call that makes `count` calls."""

    def many() -> None:
        for _ in range(count):
            call()

    return many


def waiting(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return a call that also waits until the device has finished."""

    def whole() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return whole


def block(walk: Iterator[object], steps: int, device: torch.device) -> Callable[[], None]:
    """Return a call that takes some steps and waits once."""
    return waiting(repeated(lambda: next(walk), steps), device)


def smooth(walk: Iterator[object], device: torch.device) -> None:
    """Take the first steps, which are not measured."""
    block(walk, SMOOTH, device)()


def free() -> None:
    """Free memory that is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


HEADER = ("what", "ms", "plain ms", "times as fast", "peak GB", "note")


def cells(row: Row) -> list[str]:
    """Return a row of the table."""
    plain, ratio = ("-", "-") if row.plain is None else (f"{1e3 * row.plain:.3g}", f"{row.plain / row.ours:.2f}")
    memory = "-" if row.memory is None else f"{row.memory / 1e9:.2f}"
    return [row.what, f"{1e3 * row.ours:.3g}", plain, ratio, memory, row.note]


def table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    return markdown_table(HEADER, map(cells, rows))
