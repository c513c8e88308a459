"""The run folder: names, locks, states, events, and remains of killed processes."""

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


def test_threads_can_create_the_same_run_together(tmp_path: Path):
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


def test_a_half_written_file_is_not_a_checkpoint(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / ".00000004.safetensors.tmp").write_bytes(b"half")
    assert run.checkpoints == []
    assert run.load_checkpoint() is None


def test_a_half_created_folder_is_created_again(tmp_path: Path):
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


def test_two_configurations_with_one_name_get_two_folders(tmp_path: Path):
    first = create_run(tmp_path, "ball", tiny())
    first.config_path.write_text("prompt: another of the same hash\n")
    second = create_run(tmp_path, "ball", tiny())
    assert second.folder.name == first.folder.name + "-2"
    assert create_run(tmp_path, "ball", tiny()) == second


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
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


def test_a_file_that_cannot_be_opened_is_not_held(tmp_path: Path):
    assert not is_held(tmp_path / "nothing")
    assert not is_held(tmp_path)
    run = new_run(tmp_path, tiny())
    with run.locked():
        assert is_held(run.folder / "lock")
