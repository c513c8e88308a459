"""Optional packages: the extras of pyproject.toml, and how to install one."""

from __future__ import annotations

from typing import Literal

Extra = Literal["cuda", "ray", "tensorboard", "usd", "wandb"]


def install_command(extra: Extra) -> str:
    """What to do when a package of an extra is missing, as the end of an error message."""
    return f'run pip install ".[{extra}]" in the folder of the sds3d project'
