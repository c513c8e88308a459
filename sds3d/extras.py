"""Optional packages: the extras of pyproject.toml, and how to install one."""

from __future__ import annotations

from typing import Literal

Extra = Literal["background", "compressed", "cuda", "exr", "ray", "tensorboard", "usd", "wandb"]


def install_command(extra: Extra) -> str:
    """Return the end of an error message about a missing package of an extra: how to install it."""
    return f'run pip install ".[{extra}]" in the folder of the sds3d project'
