"""`sds3d toybox train-start`, `train-normals` and `train-guidance`: small networks beside the embedded prior."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from sds3d.cli.options import RESUMED, Device, Overrides, Threads, TrainingFolder, examples
from sds3d.cli.toybox import toybox
from sds3d.config import build, parse_override
from sds3d.console import bars_by_stage, out


@toybox.command(
    "train-start",
    epilog=examples(
        "sds3d toybox train-start --out begun  # half an hour",
        "sds3d generate 'a red mug' start_from=begun/start  # use it",
        "sds3d toybox train-start --out begun --model my-prior/prior  # for a prior of yours",
        notes=RESUMED,
    ),
)
def toybox_train_start(
    overrides: Overrides = None,
    out_dir: TrainingFolder = Path("toybox-start"),
    model: Annotated[
        str, typer.Option(help="The prior whose features are read: toybox, or the folder of another.")
    ] = "toybox",
    threads: Threads = 0,
    device: Device = "",
) -> None:
    """Train the network that makes starts from the features of a prior."""
    from sds3d.toybox.train_start import train_start

    _train(train_start, out_dir, [f"start_from={model}", *(overrides or [])], threads, device)


@toybox.command(
    "train-normals",
    epilog=examples(
        "sds3d toybox train-normals --out seen  # a quarter of an hour",
        "sds3d estimate mug.png --model seen/normals",
        "sds3d generate 'a red mug' --preset polish start_from=RUN 'estimators=[{model: seen/normals}]'",
        notes=RESUMED,
    ),
)
def toybox_train_normals(
    overrides: Overrides = None,
    out_dir: TrainingFolder = Path("toybox-normals"),
    threads: Threads = 0,
    device: Device = "",
) -> None:
    """Train the estimator of normals of the toy world."""
    from sds3d.toybox.train_normals import train_normals

    _train(train_normals, out_dir, overrides or [], threads, device)


@toybox.command(
    "train-guidance",
    epilog=examples(
        "sds3d toybox train-guidance --out guided",
        "sds3d generate 'a red mug' prior.guidance_adapter=guided/guidance guidance.scale=1",
        notes=RESUMED,
    ),
)
def toybox_train_guidance(
    overrides: Overrides = None,
    out_dir: TrainingFolder = Path("toybox-guidance"),
    model: Annotated[str, typer.Option(help="The prior that it is for: toybox, or the folder of another.")] = "toybox",
    threads: Threads = 0,
    device: Device = "",
) -> None:
    """Train an adapter by which a prior predicts under guidance in one call."""
    from sds3d.toybox.train_guidance import train_guidance

    _train(train_guidance, out_dir, [f"start_from={model}", *(overrides or [])], threads, device)


def _train(training: Callable[..., Path], folder: Path, overrides: list[str], threads: int, device: str) -> None:
    from sds3d.devices import pick_device, set_threads
    from sds3d.toybox.train_config import TrainConfig

    set_threads(threads)
    config = build(TrainConfig, *(parse_override(text) for text in overrides))
    with bars_by_stage() as report:
        out.print(f"trained: {training(folder, config, report, pick_device(device))}", soft_wrap=True)
