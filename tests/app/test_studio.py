"""The studio without a browser: settings by dotted key, presets found again, files handed out, charts, who may come."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from sds3d.app import fragments, launch
from sds3d.app.charts import chart, thinned
from sds3d.app.edits import Recipe, choices_of, edits_of, flat, leaves_of, nested
from sds3d.app.recipes import recipe
from sds3d.app.result_panel import make_file
from sds3d.app.run_panel import POLL, REST, RunPanel
from sds3d.app.server import is_local, login
from sds3d.app.settings_form import edited, fields_of, lay_out
from sds3d.app.studio import Studio, files, served
from sds3d.app.tab_create import consistent
from sds3d.app.tab_library import found
from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.triangles import simplify
from sds3d.run.config import make_config, new_run
from sds3d.run.folder import Run

KEYS = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.integers() | st.none() | st.lists(st.floats(allow_nan=False)), min_size=1
)


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    return Studio(tmp_path.resolve())


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), KEYS | st.integers()))
def test_dotted_keys_stand_for_nested_settings(tree: dict[str, object]):
    assert nested(flat(tree)) == tree


@pytest.mark.parametrize("preset", ["toybox", "splats", "mesh", "vsd", "prolificdreamer", "cfd-ode"])
def test_a_run_tells_its_preset_and_what_differs(preset: str, studio: Studio):
    config = make_config("a blue car", preset, ["seed=7", "steps=33", "export.formats=[glb]"])
    made = recipe(studio, new_run(studio.root, config))
    assert (made.preset, made.edits) == (preset, {"steps": 33, "export.formats": ["glb"]})


def test_another_choice_brings_its_own_settings(studio: Studio):
    more = ["guidance=sds", "guidance.schedule=sqrt", "guidance.schedule.max=0.9", "representation=gaussians"]
    config = make_config("a blue car", "toybox", more)
    edits = edits_of(config, lambda given: studio.config("a blue car", "toybox", nested(given)))
    assert edits == {
        "guidance.name": "sds",
        "guidance.schedule.name": "sqrt",
        "guidance.schedule.max": 0.9,
        "representation.name": "gaussians",
    }
    assert studio.config("a blue car", "toybox", nested(edits)) == config
    # A choice taken anew drops what belonged to the one before, and nothing else.
    assert consistent({**edits, "guidance.name": "vsd"}, edits) == {
        "guidance.name": "vsd",
        "representation.name": "gaussians",
    }


@pytest.mark.parametrize("preset", ["toybox", "splats", "vsd", "prolificdreamer", "perp-neg"])
def test_widgets_that_nobody_touched_change_nothing(preset: str, studio: Studio):
    config = studio.config("a red mug", preset)
    fields = fields_of(config)
    assert {field.key for field in fields} >= {"steps", "guidance.name", "representation.name", "export.formats"}
    assert all(field.help() for field in fields if not field.is_choice)
    with gr.Blocks():
        widgets = lay_out(fields, lambda _: False)
    shown = [widget.value for widget in widgets]  # type: ignore[attr-defined]
    assert edited(fields, leaves_of(config), shown) == {}
    steps = [field.key for field in fields].index("steps")
    assert edited(fields, leaves_of(config), [*shown[:steps], 77, *shown[steps + 1 :]]) == {"steps": 77}
    assert choices_of(leaves_of(config))["prior.name"] == "diffusers"


def test_studios_open_to_others_take_no_names_of_files(studio: Studio):
    visitors = replace(studio, local=False)
    for layer in ({"start_from": "/etc/passwd"}, {"prior": {"model": "/"}}, {"stages": [{"steps": 3}]}):
        with pytest.raises(ConfigError, match="open to others"):
            visitors.config("a red mug", "toybox", layer)
    assert visitors.config("a red mug", "toybox", {"steps": 3}).steps == 3
    # Its own presets may.
    made = recipe(visitors, new_run(studio.root, make_config("a red mug", "prolificdreamer")))
    assert made.preset == "prolificdreamer"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\x00b", "a" * 500, "a b", "<b>", "\n"])
def test_only_names_of_runs_are_found(name: str, studio: Studio):
    assert studio.find(name) is None


def test_links_lead_nowhere(studio: Studio, tmp_path_factory: pytest.TempPathFactory):
    outside = new_run(tmp_path_factory.mktemp("outside"), make_config("a red mug"))
    (studio.root / "link").symlink_to(outside.folder)
    assert studio.find("link") is None
    assert studio.runs() == []
    run = new_run(studio.root, make_config("a red mug"))
    run.exports.symlink_to(outside.folder)
    (outside.folder / "x.glb").write_bytes(b"glTF")
    assert files(run) == []


def test_deleting_spares_what_is_going_on_and_what_is_elsewhere(
    studio: Studio, tmp_path_factory: pytest.TempPathFactory
):
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


def test_deleting_a_run_takes_back_what_was_served_of_it(
    studio: Studio, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("served")))
    one, two = (new_run(studio.root, make_config("a red mug", overrides=[f"seed={seed}"])) for seed in (1, 2))
    copies = []
    for run in (one, two):
        (run.exports / "made").mkdir(parents=True)
        for path in (run.exports / "mug.glb", run.exports / "made" / "mug.obj"):
            path.write_text(f"{run.folder.name} {path.suffix}")
        copies.append([Path(served(path)) for path in files(run)])
    studio.delete(one)  # the other's stay
    assert [[copy.exists() for copy in of_run] for of_run in copies] == [[False, False], [True, True]]
    for copy in copies[1]:
        copy.unlink()
    studio.delete(two)  # what is gone already is no error
    assert studio.runs() == []


def test_a_finished_run_is_shown_as_one_when_its_files_cannot_be_served(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
):
    run = new_run(studio.root, make_config("a red mug"))
    run.exports.mkdir(exist_ok=True)
    (run.exports / "a-red-mug.glb").write_bytes(b"glTF")
    run.update(status="done", step=4, total=4)

    def full(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/gradio/x")

    monkeypatch.setattr("sds3d.app.studio.save_file_to_cache", full)
    with gr.Blocks():
        live = RunPanel.lay_out(studio)
    for updates in (live.show(run.folder.name, "exporting 0 100"), live.opened(run.folder.name, again=True)):
        assert "Finished: a red mug" in updates[live.status].value
        assert "a-red-mug.glb" in updates[live.message].value
        assert "No space left on device" in updates[live.message].value
        assert not updates[live.timer].active


def test_the_page_goes_on_looking_while_a_run_can_go_on(studio: Studio):
    run = new_run(studio.root, make_config("a red mug"))
    with gr.Blocks():
        live = RunPanel.lay_out(studio)
    for status, timer in {
        "new": (REST, True), "paused": (REST, True), "cancelled": (REST, True), "failed": (REST, True),
        "queued": (POLL, True), "running": (POLL, True), "done": (REST, False),
    }.items():  # fmt: skip
        run.update(status=status)
        made = live.show(run.folder.name, "")[live.timer]
        assert (made.value, made.active) == timer, status


def test_studios_open_to_others_tell_no_folders_of_this_machine(studio: Studio):
    visitors = replace(studio, local=False)
    text = f"free in {studio.root}, /usr/lib/x/prior: {studio.root}/mug/config.yaml is wrong at 1/2, see https://x.y/z/"
    told = f"free in {studio.root.name}, prior: mug/config.yaml is wrong at 1/2, see https://x.y/z/"
    assert visitors.told(text) == told
    assert studio.told(text) == text
    run = new_run(studio.root, make_config("a red mug"))
    run.config_path.write_text("prompt: [")
    for of_whom, known in ((studio, True), (visitors, False)):
        with pytest.raises(ConfigError, match=r"config\.yaml") as error:
            recipe(of_whom, run)
        assert (str(studio.root) in str(error.value)) == known


def test_the_library_reads_the_runs_it_shows(studio: Studio, monkeypatch: pytest.MonkeyPatch):
    runs = [new_run(studio.root, make_config("a red mug", overrides=[f"seed={seed}"])) for seed in range(3)]
    read: list[str] = []

    def counted(studio: Studio, run: Run) -> Recipe:
        read.append(run.folder.name)
        return recipe(studio, run)

    monkeypatch.setattr("sds3d.app.tab_library.recipe", counted)
    assert next(found(studio, "", "All")).name == read[0]
    assert len(read) == 1
    assert len(list(found(studio, "mug seed", "All"))) == len(runs)


def test_what_cannot_be_made_is_refused(studio: Studio):
    run = new_run(studio.root, make_config("a red mug"))
    with pytest.raises(ValueError, match="format 'exe' is unknown"):
        make_file(run, "exe", 0, 1024)
    with pytest.raises(ValueError, match="64 to 4096"):
        make_file(run, "glb", 0, 100_000)
    with pytest.raises(RunError, match="no checkpoint"):
        make_file(run, "glb", 0, 1024)


def test_a_smaller_mesh_keeps_its_shape_and_colours():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    vertices = ball.vertices.astype(np.float32)
    mesh = Mesh(vertices, ball.faces.astype(np.int32), colors=vertices + np.float32(0.5))
    small = simplify(mesh, 500)
    assert 400 <= len(small.faces) <= 500
    assert small.colors is not None
    assert np.abs(small.colors - (small.vertices + 0.5)).max() < 0.05
    assert small.volume() == pytest.approx(mesh.volume(), rel=0.02)
    assert simplify(mesh, len(mesh.faces)) is mesh


def test_passwords_are_not_repeated_and_public_addresses_need_them(tmp_path: Path):
    assert login("ada:love:lace") == ("ada", "love:lace")
    for wrong in ("secret", ":secret", "secret:"):
        with pytest.raises(ConfigError) as told:
            login(wrong)
        assert "secret" not in str(told.value)
    with pytest.raises(ConfigError, match="--auth"):
        launch(tmp_path, share=True)
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.1.2", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_charts_show_finite_values_and_few_points():
    svg = chart("Losses", {"<b>": [(1, 1.0), (2, float("nan")), (3, 1000.0)], "flat": [(1, 2.0)]}, 3)
    assert "<b>" not in svg.replace("<figcaption><b>", "")
    (line,) = re.findall(r'points="([^"]+ [^"]+)"', svg)
    assert len(line.split()) == 2
    assert "Nothing yet" in chart("Losses", {"a": [(1, float("inf"))]}, 1)
    many = [(float(i), 1.0) for i in range(9001)]
    assert len(thinned(many)) < 200
    assert thinned(many)[-1] == many[-1]


@pytest.mark.parametrize(("n", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (12, "12th"), (22, "22nd")])
def test_places_in_line(n: int, word: str):
    assert fragments.ordinal(n) == word
