"""Commands about what can be set: presets and settings."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from sds3d.cli.options import examples
from sds3d.config import ConfigError, meant
from sds3d.console import duration, err, out
from sds3d.presets import presets


def add_commands(app: typer.Typer) -> None:
    """Adds them to the command line."""
    app.command("presets", epilog=examples("sds3d presets", "sds3d generate 'a red mug' --preset dreamfusion"))(
        list_presets
    )
    app.command(
        "settings",
        epilog=examples(
            "sds3d settings",
            "sds3d settings guidance  # those of one section",
            "sds3d settings guidance guidance=vsd  # as they are with another rule",
            "sds3d settings representation --preset splats",
        ),
    )(list_settings)


def list_presets() -> None:
    """List the presets."""
    table = Table("preset", "prior", "equation", "on 2 cores", "", box=None, padding=(0, 2, 0, 0))
    for preset in presets():
        about = preset.about
        seconds = "not measured" if about.seconds is None else duration(about.seconds)
        table.add_row(f"[bold]{preset.name}[/bold]", preset.made_for, about.status, seconds, about.description)
    out.print(table)


def list_settings(
    chosen: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION|KEY=VALUE", help="Sections to list, and settings laid over the preset."),
    ] = None,
    preset: Annotated[str, typer.Option(help="A preset's name, or a YAML file.")] = "toybox",
) -> None:
    """List the settings with their values, bounds and meanings."""
    with err.status("looking"):
        from sds3d.run.config import make_config
        from sds3d.run.settings import settings_of

        sections = [word for word in chosen or [] if "=" not in word]
        # A preset for meshes of one's own wants one.
        config = make_config("a red mug", preset, ["start_from=FILE", *(w for w in chosen or [] if "=" in w)])
    settings = [s for s in settings_of(config) if s.key not in ("prompt", "start_from", "start_from_sha256")]
    for section in sections:
        if not any(setting.key.startswith(section) for setting in settings):
            known = sorted({setting.section for setting in settings} - {""})
            raise ConfigError(f'no setting begins with "{section}"; {meant(section, known)}')
    for setting in settings:
        if not sections or setting.key.startswith(tuple(sections)):
            key = setting.key.removesuffix(".name") if setting.is_choice else setting.key
            out.print(f"[bold]{key}[/bold] = {escape(json.dumps(setting.value, ensure_ascii=False))}", soft_wrap=True)
            choice = f" One of: {', '.join(str(option) for option in setting.options)}." if setting.options else ""
            out.print(Padding(escape(setting.help() + choice), (0, 0, 0, 4)))
