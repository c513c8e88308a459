"""The folder of runs: finding, deleting and serving runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sds3d.app.recipes import recipe
from sds3d.app.studio import Studio, files
from sds3d.app.visitors import visiting
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.run.config import make_config, new_run


def test_public_studios_accept_no_file_names(studio: Studio):
    visitors = replace(studio, local=False)
    for layer in (
        {"log_to": ["wandb"]},
        {"start_from": "/etc/passwd"},
        {"prior": {"model": "/"}},
        {"stages": [{"steps": 3}]},
    ):
        with visiting("ada"), pytest.raises(ConfigError, match="open to others"):
            visitors.config("a red mug", "toybox", layer)
    with visiting("ada"):
        assert visitors.config("a red mug", "toybox", {"steps": 3}).steps == 3
    # The studio's own presets may name files.
    made = recipe(visitors, new_run(studio.root, make_config("a red mug", "prolificdreamer")))
    assert made.preset == "prolificdreamer"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\x00b", "a" * 500, "a b", "<b>", "\n"])
def test_only_names_of_runs_are_found(name: str, studio: Studio):
    assert studio.find(name) is None


def test_links_out_of_the_folder_are_ignored(studio: Studio, tmp_path_factory: pytest.TempPathFactory):
    outside = new_run(tmp_path_factory.mktemp("outside"), make_config("a red mug"))
    (studio.root / "link").symlink_to(outside.folder)
    assert studio.find("link") is None
    assert studio.runs() == []
    run = new_run(studio.root, make_config("a red mug"))
    run.exports.symlink_to(outside.folder)
    (outside.folder / "x.glb").write_bytes(b"glTF")
    assert files(run) == []


def test_deleting_spares_active_runs_and_linked_folders(studio: Studio, tmp_path_factory: pytest.TempPathFactory):
    run, outside = new_run(studio.root, make_config("a red mug")), tmp_path_factory.mktemp("outside")
    (outside / "kept").touch()
    (run.folder / "link").symlink_to(outside)
    run.update(status="queued")
    with pytest.raises(RunError, match="cancel it first"):
        studio.delete(run)
    run.update(status="cancelled")
    studio.delete(run)
    assert not run.folder.exists()
    assert (outside / "kept").exists()


def test_public_studios_show_no_folders_of_this_machine(studio: Studio):
    visitors = replace(studio, local=False)
    text = f"free in {studio.root}, /usr/lib/x/prior: {studio.root}/mug/config.yaml is wrong at 1/2, see https://x.y/z/"
    redacted = f"free in {studio.root.name}, prior: mug/config.yaml is wrong at 1/2, see https://x.y/z/"
    with visiting("ada"):
        assert visitors.redacted(text) == redacted
    assert studio.redacted(text) == text
    run = new_run(studio.root, make_config("a red mug"))
    run.config_path.write_text("prompt: [")
    for reader, known in ((studio, True), (visitors, False)):
        with visiting("ada"), pytest.raises(ConfigError, match=r"config\.yaml") as error:
            recipe(reader, run)
        assert (str(studio.root) in str(error.value)) == known
