"""`sds3d app`: the studio in the browser."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated

import typer

from sds3d.cli.options import Overrides, RunsFolder, examples
from sds3d.garbage import importing

EXAMPLES = examples(
    "sds3d app",
    "sds3d app --out my-runs --port 8000",
    "sds3d app steps=200  # on top of every preset",
    "sds3d app --host 0.0.0.0 --auth-file logins.txt  # for others; a line USER:PASSWORD for each",
)


def studio(
    overrides: Overrides = None,
    out_dir: RunsFolder = Path("runs"),
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0 opens it to the network and requires logins.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Also a public address, through Gradio's servers. Requires logins.")
    ] = False,
    auth_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file of logins, a line USER:PASSWORD for each. Or: SDS3D_AUTH."),
    ] = None,
    owner: Annotated[
        str, typer.Option(metavar="USER", help="The login that owns this machine: it may see and set everything.")
    ] = "",
    auth: Annotated[
        list[str] | None,
        typer.Option(metavar="USER:PASSWORD", hidden=True, help="Like --auth-file, but visible to all processes."),
    ] = None,
) -> None:
    """Start the studio, a web page on this machine."""
    logins = [*(auth or []), *os.environ.pop("SDS3D_AUTH", "").split()]
    if auth:
        warnings.warn(
            "--auth shows the password to every user of this machine; use --auth-file or SDS3D_AUTH", stacklevel=1
        )
    if auth_file is not None:
        logins += [line.strip() for line in auth_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    with importing():  # so that later collections look only at what visitors leave behind
        from sds3d.app import launch

    launch(out_dir, host, port, overrides or [], share=share, auth=logins, owner=owner)
