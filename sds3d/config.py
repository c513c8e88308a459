"""Configuration without side effects: frozen pydantic models, YAML, dotted overrides, helpful errors."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every configuration model: frozen, unknown keys refused, attribute docstrings are help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


def _data_dir(name: str) -> Path:
    package = Path(__file__).resolve().parent
    installed = package / f"_{name}"  # a wheel carries the folder inside the package, a checkout beside it
    return installed if installed.is_dir() else package.parent / name


def assets_dir() -> Path:
    """Folder of the shipped assets (embedded prior, sample prompts), in a checkout and in an installed wheel."""
    return _data_dir("assets")


def configs_dir() -> Path:
    """Folder of the presets, one YAML each, in a checkout and in an installed wheel."""
    return _data_dir("configs")
