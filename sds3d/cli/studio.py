"""`sds3d app`: the studio in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sds3d.cli.options import Overrides, RunsFolder, examples

EXAMPLES = examples(
    "sds3d app",
    "sds3d app --out my-runs --port 8000",
    "sds3d app steps=200  # on top of every preset",
    "sds3d app --host 0.0.0.0 --auth ada:lovelace  # for others, with a password",
)


def studio(
    overrides: Overrides = None,
    out_dir: RunsFolder = Path("runs"),
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0 opens it to the network and requires --auth.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Also a public address, through Gradio's servers. Requires --auth.")
    ] = False,
    auth: Annotated[
        list[str] | None,
        typer.Option(metavar="USER:PASSWORD", envvar="SDS3D_AUTH", help="A login. Repeatable."),
    ] = None,
) -> None:
    """Start the studio, a web page on this machine."""
    from sds3d.app import launch

    launch(out_dir, host, port, overrides or [], share=share, auth=auth or [])
