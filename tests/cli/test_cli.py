"""The command line as a user meets it, with a tiny untrained diffusers folder as the prior."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sds3d.cli.main import main
from sds3d.run.config import make_config
from sds3d.run.doctor import can_generate, examine
from sds3d.run.folder import list_runs
from sds3d.toybox.captions import VOCABULARY
from sds3d.toybox.diffusion import make_tokenizer

ROOT = Path(__file__).parents[2]
SMALL = [
    "--preset",
    "dreamfusion",
    "--threads",
    "1",
    "cameras.size=16",
    "representation.resolution=12",
    "representation.samples=16",
    "export.resolution=24",
    "export.texture_size=64",
    "export.picture_size=32",
    "export.frames=4",
]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with the smallest networks that fit together; the weights are random."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(VOCABULARY)
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=tokenizer.model_max_length,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16,
        attention_head_dim=1,
        norm_num_groups=4,
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    folder = tmp_path_factory.mktemp("model")
    StableDiffusionPipeline(
        vae=vae,  # type: ignore[arg-type]
        text_encoder=CLIPTextModel(text_config),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command and returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_generate_writes_a_run_and_says_what(cli: Cli, model: Path, tmp_path: Path):
    command = ["generate", "a red mug", f"prior.model={model}", "--steps", "3", "--out", str(tmp_path), *SMALL]
    code, stdout, stderr = cli(*command)
    assert code == 0, stderr
    run = list_runs(tmp_path)[0]
    assert run.state.status == "done"
    for name in ("a-red-mug.glb", "a-red-mug.obj", "a-red-mug.ply", "turntable.mp4", "contact_sheet.png"):
        assert re.search(rf"{re.escape(name)} +[0-9.]+ [kM]B", stdout), name
    assert "latest.png" in stdout
    assert re.search(r"[0-9.]+ s in total", stdout)
    assert "step 3/3" in stderr

    code, stdout, _ = cli(*command)
    assert code == 0
    assert "finished already" in stdout

    (run.exports / "a-red-mug.glb").unlink()
    code, stdout, stderr = cli("export", str(run.folder), "frames=5")
    assert code == 0, stderr
    assert (run.exports / "a-red-mug.glb").exists()

    for path in run.exports.iterdir():
        path.unlink()
    code, stdout, stderr = cli("export", str(run.folder), "--format", "stl, spz")
    assert code == 0, stderr
    written = {path.name for path in run.exports.iterdir()}
    assert written == {"a-red-mug.stl", "a-red-mug.spz", "turntable.mp4", "contact_sheet.png"}
    code, _, stderr = cli("export", str(run.folder), "--format", "glb,splat-pyl")
    assert code == 1
    assert 'the format "splat-pyl" is unknown; did you mean "splat-ply"?' in stderr


def test_ctrl_c_leaves_a_run_that_resumes(cli: Cli, model: Path, tmp_path: Path):
    command = ["generate", "a red mug", f"prior.model={model}", "--steps", "100", "--out", str(tmp_path), *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "sds3d", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step "):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait() == 130
    run = list_runs(tmp_path)[0]
    assert f"sds3d resume {run.folder}" in rest
    assert "Traceback" not in rest
    assert run.state.status == "paused"
    assert 0 < run.state.step < 100
    stopped = run.state.step

    # A shorter end: resuming all 100 steps would only repeat what test_drive proves.
    run.config_path.write_text(run.config_path.read_text().replace("steps: 100", f"steps: {stopped + 2}"))
    code, _, stderr = cli("resume", str(run.folder))
    assert code == 0, stderr
    assert run.state.status == "done"
    assert run.events()[-2]["step"] == stopped + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "a mug", "stepz=3"], 'unknown key "stepz"; did you mean "steps"?'),
        (["generate", "a mug", "scale=3"], 'did you mean "guidance.scale"?'),
        (["generate", "a mug", "guidance.name=multivew"], 'did you mean "multiview"?'),
        (["generate", "a mug", "--preset", "toybx"], 'did you mean "toybox"?'),
        (["generate", "a mug", "steps"], "is not KEY=VALUE"),
        (["generate", "  "], "the prompt is empty"),
        (["generate", "a mug", "--device", "quantum"], 'device "quantum" cannot be used'),
        (["generate", "a mug", "prior.model=/nowhere", "prior.offline=true"], "can't load the model '/nowhere'"),
        (["resume", "/nowhere"], "is no run folder"),
        (["export", "/nowhere"], "is no run folder"),
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


def test_debug_shows_where_an_error_came_from():
    result = subprocess.run(
        [sys.executable, "-m", "sds3d", "resume", "/nowhere", "--debug"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_only_meshes_are_painted(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("texture", str(tmp_path / "mug.obj"), "a red mug")
    assert code == 1
    assert "mug.obj" in stderr
    points = tmp_path / "points.ply"
    trimesh.PointCloud(np.random.default_rng(0).random((20, 3))).export(points)
    code, _, stderr = cli("texture", str(points), "a red mug", "--out", str(tmp_path))
    assert code == 1
    assert "no triangles to paint" in stderr.replace("\n", " ")
    assert len(stderr.splitlines()) == 1


def test_unknown_words_are_named_with_the_nearest_known(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("generate", "a red mugg on the moon", "--out", str(tmp_path), "--device", "quantum")
    assert code == 1
    assert "does not know: mugg (like mug" in stderr
    assert "moon" in stderr
    assert "prior.model=" in stderr


def test_a_large_model_is_not_asked_about_toy_words(cli: Cli, model: Path, tmp_path: Path):
    _, _, stderr = cli("generate", "a corgi", f"prior.model={model}", "--out", str(tmp_path), "--device", "quantum")
    assert "does not know" not in stderr


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["generate"],
        ["texture"],
        ["resume"],
        ["export"],
        ["presets"],
        ["settings"],
        ["doctor"],
        ["app"],
        ["toybox", "render"],
        ["toybox", "train"],
        ["toybox", "sample"],
        ["bench", "toybox"],
        ["bench", "rendering"],
    ],
)
def test_every_help_page_has_examples(command: list[str], cli: Cli):
    code, stdout, _ = cli(*command, "--help")
    assert code == 0
    assert f"sds3d {' '.join(command)}".strip() in stdout.split("Examples")[1]


def test_help_imports_nothing_heavy():
    script = (
        "import sys\nfrom sds3d.cli.main import main\n"
        "try:\n    main(['generate', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'numba', 'diffusers', 'gradio') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_presets_are_listed(cli: Cli):
    code, stdout, _ = cli("presets")
    assert code == 0
    assert "toybox" in stdout
    assert "dreamfusion" in stdout


@pytest.mark.parametrize("chosen", [(), ("guidance=vsd", "representation=gaussians", "gradient=[{name: clamp}]")])
def test_settings_are_listed_as_they_can_be_given(chosen: tuple[str, ...], cli: Cli):
    code, stdout, _ = cli("settings", *chosen)
    assert code == 0
    lines = [line.split(" = ", 1) for line in stdout.splitlines() if not line.startswith(" ") and " = " in line]
    assert len(lines) > 50
    given = [f"{key}={value}" for key, value in lines]
    assert make_config("a red mug", overrides=given) == make_config("a red mug", overrides=chosen)


def test_settings_of_a_section_that_there_is_not(cli: Cli):
    code, stdout, stderr = cli("settings", "cameras", "giudance")
    assert (code, stdout) == (1, "")
    assert 'no setting begins with "giudance"; did you mean "guidance"?' in stderr
    code, stdout, _ = cli("settings", "cameras", "--preset", "texture")
    assert code == 0
    assert all(line.startswith(("cameras.", " ")) for line in stdout.splitlines())


def test_toybox_render_draws_true_views(cli: Cli, tmp_path: Path):
    code, _, stderr = cli("toybox", "render", "a red mug", "--out", str(tmp_path / "mug.png"))
    assert code == 0, stderr
    assert (tmp_path / "mug.png").stat().st_size > 1000
    code, _, stderr = cli("toybox", "render", "--objects", "2", "--out", str(tmp_path / "set"))
    assert code == 0, stderr
    assert len(list((tmp_path / "set").glob("*.png"))) == 8


def test_toybox_sample_draws_four_views(cli: Cli, model: Path, tmp_path: Path):
    path = tmp_path / "sample.png"
    code, _, stderr = cli("toybox", "sample", "a red mug", "--model", str(model), "--steps", "2", "--out", str(path))
    assert code == 0, stderr
    assert path.exists()


def test_doctor_tells_what_works(cli: Cli, tmp_path: Path):
    findings = {finding.name: finding for finding in examine(tmp_path)}
    assert findings["torch"].detail == torch.__version__
    assert findings["CUDA"].ok == torch.cuda.is_available()
    assert findings["ffmpeg"].ok
    code, stdout, _ = cli("doctor")
    assert code == (0 if can_generate(list(findings.values())) else 1)
    assert "gsplat" in stdout


def test_doctor_fails_without_the_embedded_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sds3d.run.doctor.assets_dir", lambda: tmp_path)
    findings = examine(tmp_path)
    prior = next(finding for finding in findings if finding.name == "embedded prior")
    assert not prior.ok
    assert "reinstall" in prior.detail
    assert not can_generate(findings)
