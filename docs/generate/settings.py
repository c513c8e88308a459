"""The reference of all settings, from the configuration models."""

import json
from pathlib import Path
from typing import Any

from . import write


def write_page(docs: Path) -> None:
    """Write docs/reference/settings.md."""
    write(docs / "reference" / "settings.md", page())


def page() -> str:
    """Every setting of a run. Those of guidance rules are on the rules' own pages."""
    from sds3d.config import alternatives
    from sds3d.run.config import RunConfig
    from sds3d.run.settings import settings_of

    whole = [s for s in settings_of(RunConfig(prompt="a red mug")) if s.key not in ("prompt", "start_from_sha256")]
    intro = "`sds3d settings` prints the same on the terminal. Set them as `KEY=VALUE`, or in a YAML file."
    parts = ["# Settings", intro, "## The run", rows([s for s in whole if not s.section])]
    for name, info in RunConfig.model_fields.items():
        models = alternatives(RunConfig, name)
        if name == "gradient" or not models:
            continue
        parts += [f"## {name}", info.description or ""]
        if name == "guidance":
            parts.append("The settings of each rule are on its page, see [Methods](../methods.md).")
        elif len(models) == 1:
            parts.append(table(models[0](), f"{name}."))
        else:
            for model in models:
                parts += [f"### {name}={model.model_fields['name'].default}", table(model(), f"{name}.")]
    return "\n\n".join(parts) + "\n"


def table(config: Any, prefix: str = "") -> str:
    """Keys, defaults and meanings of a configuration."""
    from sds3d.run.settings import settings_of

    return rows([s for s in settings_of(config, prefix) if s.key != f"{prefix}name"])


def rows(settings: list[Any]) -> str:
    """A table of settings."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for setting in settings:
        key = setting.key.removesuffix(".name") if setting.is_choice else setting.key
        value = json.dumps(setting.value, ensure_ascii=False)
        options = f" One of: {', '.join(map(str, setting.options))}." if setting.options else ""
        meaning = (setting.help() + options).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
        lines.append(f"| `{key}` | `{value}` | {meaning} |")
    return "\n".join(lines)
