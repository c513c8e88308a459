"""Commands that list presets, settings, and what this machine can do."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table

from sds3d.cli.exits import Exit
from sds3d.cli.options import Json, PresetName, examples
from sds3d.config import ConfigError, meant
from sds3d.console import duration, err, out, print_json
from sds3d.presets import DEFAULT_PRESET, presets

if TYPE_CHECKING:
    from sds3d.run.settings import Setting

PANEL = "Explore"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        "presets",
        rich_help_panel=PANEL,
        epilog=examples("sds3d presets", "sds3d generate 'a red mug' --preset dreamfusion  # use one"),
    )(list_presets)
    app.command(
        "settings",
        rich_help_panel=PANEL,
        epilog=examples(
            "sds3d settings",
            "sds3d settings guidance  # one section",
            "sds3d settings guidance guidance=vsd  # the settings of another rule",
            "sds3d settings representation --preset splats",
        ),
    )(list_settings)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "sds3d doctor",
            "sds3d doctor && sds3d generate 'a red mug'",
            "sds3d doctor --build  # compile the kernels of gsplat and nerfacc for this GPU",
        ),
    )(doctor)


def list_presets(as_json: Json = False) -> None:
    """List the presets."""
    if as_json:
        print_json([
            {"name": preset.name, "made_for": preset.made_for, **preset.about.model_dump(exclude={"base"})}
            for preset in presets()
        ])  # fmt: skip
        return
    for title, real in (("for the embedded prior", False), ("for real models", True)):
        time = [] if real else ["on 2 cores"]
        table = Table(title, "prior", "equation", *time, "", box=None, padding=(0, 2, 0, 0))
        for preset in presets():
            about = preset.about
            if (about.group == "real") == real:
                seconds = "not measured" if about.seconds is None else duration(about.seconds)
                cells = [f"[bold]{preset.name}[/bold]", preset.made_for, about.status, *([] if real else [seconds])]
                table.add_row(*cells, about.description)
        out.print(table)


def list_settings(
    chosen: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION|KEY=VALUE", help="Sections to list, and settings on top of the preset."),
    ] = None,
    preset: PresetName = DEFAULT_PRESET,
    as_json: Json = False,
) -> None:
    """List the settings with their values, bounds and meanings."""
    with err.status("loading"):
        from sds3d.run.config import make_config
        from sds3d.run.settings import settings_of_run

        sections = [word for word in chosen or [] if "=" not in word]
        # Presets that paint a mesh refuse to be built without one.
        config = make_config("a red mug", preset, ["start_from=FILE", *(w for w in chosen or [] if "=" in w)])
    settings = [s for s in settings_of_run(config) if s.key not in ("prompt", "start_from", "start_from_sha256")]
    for section in sections:
        if not any(setting.within.startswith(section) for setting in settings):
            known = sorted({setting.section for setting in settings} - {""})
            raise ConfigError(f'no setting begins with "{section}"; {meant(section, known)}')
    listed = [setting for setting in settings if not sections or setting.within.startswith(tuple(sections))]
    if as_json:
        print_json([
            {"key": _key(s), "value": s.value, "help": s.help(), "options": list(s.options)} for s in listed
        ])  # fmt: skip
        return
    for setting in listed:
        value = json.dumps(setting.value, ensure_ascii=False)
        out.print(f"[bold]{_key(setting)}[/bold] = {escape(value)}", soft_wrap=True)
        choice = f" One of: {', '.join(str(option) for option in setting.options)}." if setting.options else ""
        out.print(Padding(escape(setting.help() + choice), (0, 0, 0, 4)))


def _key(setting: Setting) -> str:
    """Return the key as it is given on the command line: guidance=vsd, not guidance.name=vsd."""
    return setting.key.removesuffix(".name") if setting.is_choice else setting.key


def doctor(
    build: Annotated[
        bool, typer.Option("--build", help="First compile the CUDA kernels of gsplat and nerfacc, for minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Report what this machine can do and what is missing; exit code 0 if it can generate."""
    if build:
        _build_kernels()
    with err.status("checking"):
        from sds3d.run.doctor import can_generate, examine

        findings = examine()
    if as_json:
        print_json({"can_generate": can_generate(findings), "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table.grid("", "", Column(overflow="fold"), padding=(0, 2))
        for finding in findings:
            missing = "[red]missing[/red]" if finding.needed else "[yellow]no[/yellow]"
            table.add_row("[green]ok[/green]" if finding.ok else missing, finding.name, escape(finding.detail))
        out.print(table)
    if not can_generate(findings):
        raise typer.Exit(Exit.FAILED)


def _build_kernels() -> None:
    """Compile the kernels of gsplat and nerfacc; one line each."""
    from sds3d.rendering import gpu_build

    packages: tuple[gpu_build.Compiled, ...] = ("gsplat", "nerfacc")
    for package in packages:
        with err.status(f"compiling {package}, which takes minutes"):
            path = gpu_build.build(package)
        err.print(escape(f"{package}: {path}"), soft_wrap=True)
