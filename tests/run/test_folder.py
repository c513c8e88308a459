"""The run folder: names, locks, states, events, and what a killed process leaves in it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sds3d.files import RunError
from sds3d.run.config import new_run, read_config
from sds3d.run.folder import Run, RunState, create_run, is_held, list_runs, open_run
from tests.run.tiny_runs import tiny


def test_two_processes_cannot_run_one_folder(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    with run.locked():
        assert run.busy()
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"), Run(run.folder).locked():
            pass
    assert not run.busy()
    with run.locked():
        pass


def test_the_same_run_may_be_made_by_many_at_once(tmp_path: Path):
    config = tiny()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_run(tmp_path, config), range(32)))
    assert set(made) == {made[0]}
    assert [path.name for path in made[0].folder.iterdir()] == ["config.yaml"]


def test_a_torn_event_is_skipped_and_closed(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    run.add_event({"step": 1})
    with (run.folder / "events.jsonl").open("a") as file:
        file.write('{"step": 2, "los')
    assert run.events() == [{"step": 1}]
    run.add_event({"step": 3})
    assert run.events() == [{"step": 1}, {"step": 3}]


def test_what_a_killed_write_left_is_no_checkpoint(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / ".00000004.safetensors.tmp").write_bytes(b"half")
    assert run.checkpoints == []
    assert run.load_checkpoint() is None


def test_a_folder_whose_making_was_killed_is_made_again(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    run.config_path.unlink()
    assert new_run(tmp_path, tiny()) == run
    assert read_config(run) == tiny()


def test_names_of_runs(tmp_path: Path):
    folders = {new_run(tmp_path, tiny(prompt=prompt)).folder.name for prompt in ("a ball", "a ball!", "A Ball", "球")}
    assert len(folders) == 4
    assert sum(name.startswith("a-ball-") for name in folders) == 3
    long = new_run(tmp_path, tiny(prompt="a very " * 100 + "red mug"))
    assert len(long.folder.name) < 60


def test_two_configurations_of_one_name_get_two_folders(tmp_path: Path):
    first = create_run(tmp_path, "ball", tiny())
    first.config_path.write_text("prompt: another of the same hash\n")
    second = create_run(tmp_path, "ball", tiny())
    assert second.folder.name == first.folder.name + "-2"
    assert create_run(tmp_path, "ball", tiny()) == second


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    assert open_run(run.folder) == run
    assert list_runs(tmp_path) == [run]
    with pytest.raises(RunError, match=rf"not a run folder .* did you mean {run.folder}"):
        open_run(tmp_path / "nothing")


def test_state_is_replaced_as_a_whole(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    assert run.state == RunState()
    run.update(status="running", step=3)
    run.update(step=4)
    assert run.state == RunState(status="running", step=4)
    for damaged in ("{", '{"status": "weird"}', '{"step": null}', '{"seconds": "9"}'):
        (run.folder / "state.json").write_text(damaged)
        with pytest.raises(RunError, match="damaged"):
            _ = run.state


def test_what_cannot_be_opened_is_held_by_nobody(tmp_path: Path):
    assert not is_held(tmp_path / "nothing")
    assert not is_held(tmp_path)
    run = new_run(tmp_path, tiny())
    with run.locked():
        assert is_held(run.folder / "lock")
