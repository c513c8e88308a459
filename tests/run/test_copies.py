"""A run's folder has copies of the files that its settings name."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from sds3d.app.limits import refuse_owners_only
from sds3d.config import ConfigError, load_yaml
from sds3d.files import RunError
from sds3d.representations.lights import load_lights
from sds3d.representations.mesh_appearance import PBRMaterial
from sds3d.representations.mesh_scene import MeshConfig
from sds3d.run.config import RunConfig, make_config, new_run, read_config, stage_config
from sds3d.run.copies import beside, check_copies, with_paths
from sds3d.run.drive import drive
from sds3d.run.folder import Run
from sds3d.run.inputs import check_inputs
from tests.run.tiny_runs import tiny

HDR = Path(__file__).parent.parent / "data" / "panoramas" / "opencv.hdr"
KEY = "representation.appearance.material"


def config_with(file: Path, *more: str) -> RunConfig:
    light = f"[{{name: file, file: {file}}}]"
    return make_config("a red mug", "fantasia3d", [f"{KEY}.environments={light}", *more])


def material_of(config: RunConfig) -> PBRMaterial:
    shape = stage_config(config, 1).representation
    assert isinstance(shape, MeshConfig)
    assert isinstance(shape.appearance.material, PBRMaterial)
    return shape.appearance.material


def test_a_run_is_whole_without_the_file_that_it_was_made_with(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "sky.hdr"
    mine.parent.mkdir()
    shutil.copy(HDR, mine)
    run = new_run(tmp_path / "runs", config_with(mine))
    mine.unlink()
    moved = Run(run.folder.rename(tmp_path / "moved"))
    light = material_of(read_config(moved)).environments[0]
    digest = hashlib.sha256(HDR.read_bytes()).hexdigest()
    assert light.model_dump() == {
        "strength": 1.0,
        "azimuth": 0.0,
        "name": "file",
        "file": str(moved.folder / "inputs" / digest[:16] / "sky.hdr"),
        "sha256": digest,
    }
    assert (moved.folder / "inputs" / digest[:16] / "sky.hdr").read_bytes() == HDR.read_bytes()
    assert len(load_lights(material_of(read_config(moved))).diffuse) == 1
    assert str(tmp_path) not in str(load_yaml(moved.config_path))  # nobody learns where the file was


def test_the_same_file_gives_the_same_run_wherever_it_is(tmp_path: Path) -> None:
    runs = []
    for folder, content in (("one", b""), ("two", b""), ("three", b"other")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sky.hdr").write_bytes(HDR.read_bytes() + content)
        runs.append(new_run(tmp_path / "runs", config_with(tmp_path / folder / "sky.hdr")).folder)
    assert runs[0] == runs[1] != runs[2]
    again = new_run(tmp_path / "runs", read_config(Run(runs[0])))  # from the run's own settings
    assert again.folder == runs[0]


def test_a_file_that_cannot_be_used_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "bad.hdr").write_bytes(b"PNG")
    check_inputs(config_with(HDR))
    for name, message in (("bad.hdr", "no Radiance picture"), ("none.hdr", "none.hdr"), ("sky.png", "give a .hdr")):
        with pytest.raises(ConfigError, match=rf"^{KEY}\.environments\.0\.file: .*{message}") as error:
            check_inputs(config_with(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(RunError, match=r"cannot copy .*none\.hdr"):
        new_run(tmp_path / "runs", config_with(tmp_path / "none.hdr"))


def test_visitors_cannot_name_files_of_the_machine() -> None:
    with pytest.raises(ConfigError, match="environments cannot be set"):
        refuse_owners_only({"representation": {"appearance": {"material": {"environments": [{"name": "file"}]}}}})


def test_runs_without_files_are_as_before(tmp_path: Path) -> None:
    config = make_config("a red mug", "fantasia3d")
    run = new_run(tmp_path, config)
    assert read_config(run) == config
    assert not (run.folder / "inputs").exists()


DIGEST = "0123456789abcdef"


@pytest.mark.parametrize(
    "place",
    [
        "inputs/../../../q.png", f"inputs/{DIGEST}/../../q.png", f"inputs/{DIGEST}/..", f"inputs/{DIGEST}", "inputs",
        f"inputs/{DIGEST}/sub/q.png", f"inputs/{DIGEST[:-1]}/q.png", f"inputs/{DIGEST.upper()}/q.png", "inputs/q.png",
        f"./inputs/{DIGEST}/sub/../q.png", f"inputs/{DIGEST}/q.png\0", "inputs/٠١٢٣٤٥٦٧٨٩٠١٢٣٤٥/q.png",
    ],
)  # fmt: skip
def test_only_copies_are_read_from_a_runs_folder(place: str, tmp_path: Path) -> None:
    for values in ({"prompts": {"image": place}}, {"reference": [{"image": "/own.png", "mask": place}]}):
        with pytest.raises(
            ConfigError, match="is no copy in the run's folder: its form is inputs/<16 hex digits>/NAME"
        ):
            with_paths(values, tmp_path)


def test_paths_of_copies_are_those_in_the_folder(tmp_path: Path) -> None:
    light = {"name": "file", "file": "sky.hdr", "sha256": 4 * DIGEST}
    values = {
        "prompts": {"image": f"inputs/{DIGEST}/a b.png"},
        "rewards": [{"image": "own/inputs/q.png"}],
        "lights": [light],
    }
    copies = tmp_path / "inputs" / DIGEST
    assert with_paths(values, tmp_path) == {
        "prompts": {"image": str(copies / "a b.png")},
        "rewards": [{"image": "own/inputs/q.png"}],
        "lights": [light | {"file": str(copies / "sky.hdr")}],
    }
    for change in ({"sha256": f"../../..{DIGEST}"}, {"file": ".."}):
        with pytest.raises(ConfigError, match="is no copy in the run's folder"):
            with_paths({"lights": [light | change]}, tmp_path)


@pytest.mark.parametrize("linked", ["inputs", f"inputs/{DIGEST}", f"inputs/{DIGEST}/q.png"])
def test_links_in_place_of_copies_are_not_followed(linked: str, tmp_path: Path) -> None:
    run, place = tmp_path / "run", f"inputs/{DIGEST}/q.png"
    for folder in (tmp_path / "other", run):
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_bytes(b"picture")
    assert with_paths({"image": place}, run) == {"image": str(run / place)}
    (run / linked).rename(tmp_path / "aside")
    (run / linked).symlink_to(tmp_path / "other" / linked)
    with pytest.raises(ConfigError, match=f"{linked} is a symbolic link, which is not followed"):
        with_paths({"image": place}, run)


def test_a_copy_that_has_changed_stops_the_run(tmp_path: Path) -> None:
    picture = tmp_path / "mug.png"
    picture.write_bytes(b"a picture")
    run = new_run(tmp_path / "runs", tiny(prompts={"image": str(picture)}))
    config = read_config(run)
    check_copies(config, run.folder)
    Path(config.prompts.image).write_bytes(b"another")
    with pytest.raises(RunError, match=r"mug\.png is not the file that the run was made with: put that one back"):
        check_copies(config, run.folder)
    with pytest.raises(RunError, match="is not the file"):
        list(drive(run, threads=1))
    assert "is not the file that the run was made with" in run.state.error
    Path(config.prompts.image).unlink()
    with pytest.raises(RunError, match=r"cannot read .*mug\.png: No such file"):
        check_copies(config, run.folder)


def test_a_settings_file_finds_what_is_in_its_folder_and_nothing_else(tmp_path: Path) -> None:
    values = {
        "start_from": "mug.glb",
        "prompts": {"image": f"inputs/{DIGEST}/a.png"},
        "reference": [
            {"image": f"inputs/{DIGEST}/b.png", "mask": "a.png", "azimuth": 0},
            {"image": f"/x/inputs/{DIGEST}/a.png"},
        ],
        "stages": [{"light": {"name": "file", "file": "/x/sky.hdr", "sha256": 4 * DIGEST}}],
    }
    assert beside(values, tmp_path) == values
    for place in ("mug.glb", "a.png", f"inputs/{DIGEST}/a.png", f"inputs/{DIGEST}/b.png", f"inputs/{DIGEST}/sky.hdr"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert beside(values, tmp_path) == {
        "start_from": str(tmp_path / "mug.glb"),
        "prompts": {"image": str(tmp_path / f"inputs/{DIGEST}/a.png")},
        "reference": [
            {"image": str(tmp_path / f"inputs/{DIGEST}/b.png"), "mask": "a.png", "azimuth": 0},
            {"image": f"/x/inputs/{DIGEST}/a.png"},
        ],
        "stages": [
            {"light": {"name": "file", "file": str(tmp_path / f"inputs/{DIGEST}/sky.hdr"), "sha256": 4 * DIGEST}}
        ],
    }
    outside = {"prompts": {"image": f"inputs/{DIGEST}/../../a.png"}}
    assert beside(outside, tmp_path) == outside
    for start in ("../mug.glb", "other.glb", ""):
        assert beside({"start_from": start}, tmp_path) == {"start_from": start}
