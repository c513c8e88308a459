"""Help pages, errors and exit codes of the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import sds3d
from sds3d.cli.exits import MEANINGS, Exit
from sds3d.cli.main import app
from sds3d.formats.table import EXPORT_FORMATS, FORMATS
from sds3d.geometry.mesh import Mesh
from sds3d.run.asset import Asset

ROOT = Path(__file__).parents[2]


Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a mug", "stepz=3"], 'unknown key "stepz"; did you mean "steps"?'),
        (["generate", "a mug", "scale=3"], 'did you mean "guidance.scale"?'),
        (["generate", "a mug", "guidance.name=multivew"], 'did you mean "multiview"?'),
        (["generate", "a mug", "representation.resolution=64"], 'did you mean "representation.geometry.resolution"?'),
        (["generate", "a mug", "stages.9.steps=64"], "stages.9: give a setting of a stage"),
        (["generate", "a mug", "--preset", "toybx"], 'did you mean "toybox"?'),
        (["generate", "a mug", "steps"], "is not KEY=VALUE"),
        (["generate", "a mug", "x\x1b[2J\rerror=3"], r'unknown key "x\x1b[2J\rerror"'),
        (["generate", "a mug", f"{'x' * 5000}=3"], f'unknown key "{"x" * 1987}…'),
        (["generate", "  "], "the prompt is empty"),
        (["generate", "a mug", "--device", "quantum"], 'device "quantum" cannot be used'),
        (["generate", "a mug", "prior.model=/nowhere", "prior.offline=true"], "can't load the model '/nowhere'"),
        (["resume", "/nowhere"], "is not a run folder"),
        (["export", "/nowhere"], "is not a run folder"),
        (["toybox", "render", "a purple democracy"], "'a purple democracy'"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = cli(*arguments)
    assert code == 1
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in stderr


def test_debug_shows_the_traceback():
    result = subprocess.run(
        [sys.executable, "-m", "sds3d", "resume", "/nowhere", "--debug"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def pages(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, and () for `sds3d` itself."""
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", {})
    if not inner or not words:
        yield words
    for name, sub in inner.items():
        yield from pages(sub, (*words, name))


@pytest.mark.parametrize("command", list(pages()), ids=" ".join)
def test_every_help_page_has_examples(command: tuple[str, ...], cli: Cli):
    code, stdout, _ = cli(*command, "--help")
    assert code == Exit.DONE
    assert f"sds3d {' '.join(command)}".strip() in stdout.split("Examples")[1]


def test_exit_codes_are_documented_and_used(cli: Cli):
    assert {code.name: int(code) for code in Exit} == {"DONE": 0, "FAILED": 1, "WRONG_USAGE": 2, "INTERRUPTED": 130}
    _, stdout, _ = cli("--help")
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ *{code:d}  {re.escape(meaning)}", stdout, re.MULTILINE)
    for arguments in (["generat"], ["generate", "--no-such-option"], ["generate"]):
        code, stdout, stderr = cli(*arguments)
        assert (code, stdout) == (Exit.WRONG_USAGE, "")
        assert "Usage: sds3d" in stderr
    assert cli("resume", "/nowhere")[0] == Exit.FAILED


def test_the_version_is_printed(cli: Cli):
    assert cli("--version") == (Exit.DONE, f"sds3d {sds3d.__version__}\n", "")


def test_a_missing_optional_package_is_an_error_of_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object) -> None:
        raise ImportError("USDZ needs usd-core")

    monkeypatch.setattr("sds3d.cli.one_run.open_run", missing)
    assert cli("resume", "x") == (Exit.FAILED, "", "error: USDZ needs usd-core\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("gener", ["generate", "generator"]),
        ("generate x --preset dreamfusion-s", ["dreamfusion-sd"]),
        ("resume ", ["runs/a-mug-1", "runs/a-mug-2"]),
        ("export runs/a-mug-2", ["runs/a-mug-2"]),
        ("pause my-runs/", ["my-runs/a-duck-1"]),
    ],
)
def test_the_shell_completes(
    words: str, expected: list[str], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/a-mug-1", "runs/a-mug-2", "runs/.deleted-a-mug-3", "my-runs/a-duck-1"):
        Path(folder).mkdir(parents=True)
        Path(folder, "config.yaml").touch()
    monkeypatch.setenv("_SDS3D_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"sds3d {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    code, stdout, _ = cli()
    assert code == Exit.DONE
    assert stdout.split() == expected


HEAVY = ("torch", "numba", "diffusers", "transformers", "gradio", "gsplat", "nerfacc", "scipy", "trimesh", "ray")


def imported(script: str) -> str:
    """Return the list, as text, of the heavy packages that a script has imported when it ends."""
    watch = f"\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", script + watch], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["generate", "--help"], ["presets"], ["runs"], ["--version"]], ids=" ".join
)
def test_quick_commands_import_nothing_heavy(arguments: list[str]):
    script = f"from sds3d.cli.main import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass"
    assert imported(script) == "[]"


def test_help_and_docstrings_name_every_format():
    meshes = {form.extension for form in FORMATS.values() if form.read is not None and form.holds is Mesh}
    command: Any = typer.main.get_command(app)
    (mesh,) = (parameter for parameter in command.commands["texture"].params if parameter.name == "mesh")
    assert set(re.findall(r"\.[a-z0-9]+", mesh.help)) == meshes
    saved = {FORMATS[name].extension for name in EXPORT_FORMATS}
    summary = (Asset.save.__doc__ or "").splitlines()[0]
    assert set(re.findall(r"\.[a-z0-9]+", summary)) == saved
