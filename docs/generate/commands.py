"""The command line reference, from the commands themselves. Nothing heavy is imported."""

import re
from pathlib import Path
from typing import Any

import typer

from . import write


def write_page(docs: Path) -> None:
    """Write docs/reference/commands.md."""
    write(docs / "reference" / "commands.md", page())


def page() -> str:
    """All commands with their arguments, options and examples."""
    from sds3d.cli.main import app

    root: Any = typer.main.get_command(app)
    parts = ["# Commands", "`sds3d COMMAND --help` shows the same on the terminal."]
    for name, command in root.commands.items():
        parts += _section(f"sds3d {name}", command, 2)
    return "\n\n".join(parts) + "\n"


def _section(title: str, command: Any, level: int) -> list[str]:
    parts = [f"{'#' * level} {title}", plain(command.help or "")]
    if hasattr(command, "commands"):
        for name, sub in command.commands.items():
            parts += _section(f"{title} {name}", sub, level + 1)
        return parts
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([title, "[OPTIONS]" if len(arguments) < len(command.params) else "", *map(_metavar, arguments)])
    parts.append(f"```text\n{' '.join(usage.split())}\n```")
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows:
        parts.append("\n".join(["| | |", "|---|---|", *rows]))
    _, *lines = (command.epilog or "").split("\n\n")
    commands = [plain(line) for line in lines if is_command(line)]
    if commands:
        parts.append("```bash\n" + "\n".join(line.replace("  #", "   #") for line in commands) + "\n```")
    parts += [plain(line) for line in lines if not is_command(line)]
    return parts


def is_command(line: str) -> bool:
    """Whether a line of examples is a command, not a sentence about it."""
    return line.startswith("sds3d") and not line.endswith(".")


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = name if argument.required else f"[{name.strip('[]')}]"
    return name if argument.nargs == 1 else f"{name}..."


def _row(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name, help_text = parameter.metavar or parameter.name.upper(), getattr(parameter, "help", "") or ""
    else:
        name, help_text = ", ".join([*parameter.opts, *parameter.secondary_opts]), parameter.help or ""
        default = parameter.default
        if not parameter.is_flag and default not in (None, "", ()) and getattr(parameter, "show_default", True):
            help_text += f" Default: {getattr(default, 'value', default)}."
    return f"| `{name}` | {plain(help_text).replace('|', chr(92) + '|')} |"


def plain(text: str) -> str:
    """Help text without the terminal's markup."""
    return re.sub(r"\[/?(bold|dim|italic)\]", "", text).replace(r"\[", "[").replace("<", "&lt;").strip()
