"""The reference of all settings, from the configuration models."""

import json
from pathlib import Path
from typing import Any, get_args

from . import write


def write_page(docs: Path) -> None:
    """Write docs/reference/settings.md."""
    write(docs / "reference" / "settings.md", page())


def page() -> str:
    """Every setting of a run. Those of guidance rules are on the rules' own pages."""
    from sds3d.config import alternatives, help_texts
    from sds3d.guidance.sds import SDSConfig
    from sds3d.guidance.transforms import GradientTransform
    from sds3d.run.config import RunConfig
    from sds3d.run.settings import settings_of
    from sds3d.run.teachers import TeacherConfig

    whole = [s for s in settings_of(RunConfig(prompt="a red mug")) if s.key not in ("prompt", "start_from_sha256")]
    intro = "`sds3d settings` prints the same on the terminal. Set them as `KEY=VALUE`, or in a YAML file."
    parts = ["# Settings", intro, "## The run", rows([s for s in whole if not s.section])]
    for name in RunConfig.model_fields:
        models = alternatives(RunConfig, name)
        if not models or name == "gradient":
            continue
        parts += [f"## {name}", help_texts(RunConfig).get(name, "")]
        if name == "guidance":
            parts.append("The settings of each rule are on its page, see [Methods](../methods.md).")
        elif len(models) == 1:
            parts += section(models[0], f"{name}.")
        else:
            for model in models:
                parts += [f"### {name}={word(model)}", *section(model, f"{name}.")]
    parts += ["## guidance.schedule", "Timesteps, for every rule."]
    for model in alternatives(SDSConfig, "schedule"):
        parts += [f"### guidance.schedule={word(model)}", *section(model, "guidance.schedule.")]
    parts += ["## gradient", "A list of transforms, such as `gradient='[{name: clamp, limit: [2.0, 8.0]}]'`."]
    for model in get_args(get_args(GradientTransform)[0]):
        parts += [f"### name: {word(model)}", *section(model, "")]
    parts += [
        "## teachers",
        "A list of further teachers, see [Concepts](../concepts.md#several-teachers). Keys of each:",
    ]
    parts.append(rows([s for s in settings_of(TeacherConfig()) if not s.section]))
    return "\n\n".join(parts) + "\n"


def word(model: Any) -> str:
    """The name by which a choice is chosen."""
    return model.model_fields["name"].default


def section(model: Any, prefix: str) -> list[str]:
    """A model's settings, and those of choices within it that are not the default."""
    from sds3d.config import alternatives

    parts = [summary(model), table(model(), prefix)]
    for name, info in model.model_fields.items():
        chosen = type(info.get_default(call_default_factory=True))
        others = [other for other in alternatives(model, name) if other is not chosen]
        for other in filter(lambda other: other.model_fields.keys() - {"name"}, others):
            choice = f"{name}={word(other)}" if "name" in other.model_fields else f"{name}={{...}}"
            parts += [f"With `{prefix}{choice}`:", table(other(), f"{prefix}{name}.")]
    return parts


def summary(model: Any) -> str:
    """The first line of a model's docstring."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split()).replace("|", "\\|")


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
