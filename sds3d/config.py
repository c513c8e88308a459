"""Configuration without side effects: frozen pydantic models, YAML, dotted overrides, helpful errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every configuration model: frozen, unknown keys refused, attribute docstrings are help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)
