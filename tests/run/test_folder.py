"""The run folder: names, locks, states, events, and remains of killed processes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from sds3d.config import ConfigError
from sds3d.files import RunError
from sds3d.jobs.queue import enqueue, runs_in, stop
from sds3d.run.config import new_run, read_config
from sds3d.run.folder import Run, RunState, create_run, list_runs, open_run
from sds3d.run.locks import is_held
from tests.run.tiny_runs import finish, tiny


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


@pytest.mark.parametrize(
    "name",
    ["lock", "run.log", "state.json", "machine.json", "events.jsonl", "control", "config.yaml", "exports/a.glb",
     "checkpoints/00000004.safetensors", "previews/latest.png", "tensorboard/events", "exports/particle-2/a.glb"],
)  # fmt: skip
def test_no_link_in_a_run_folder_is_followed(name: str, tmp_path: Path):
    run = new_run(tmp_path / "runs", tiny())
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    path = run.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    before = victim.stat().st_mtime_ns
    for use in (lambda: finish(run), lambda: open_run(run.folder), lambda: stop(run, "pause")):
        with pytest.raises(RunError, match=f"{name} is a symbolic link, which is not followed"):
            use()
    for use in (lambda: run.state, run.events, lambda: run.last_events(3), lambda: run.log("x"), run.holder, run.busy,
                run.requested, lambda: enqueue(run), lambda: run.add_event({}), lambda: run.machine,
                lambda: read_config(run), run.load_checkpoint, lambda: new_run(tmp_path / "runs", tiny())):  # fmt: skip
        with suppress(RunError, OSError, ConfigError):
            use()
    assert victim.read_text() == "precious\n"
    assert victim.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["exports", "previews", "checkpoints", "wandb"])
def test_no_linked_folder_in_a_run_folder_is_written_to(name: str, tmp_path: Path):
    run = new_run(tmp_path / "runs", tiny())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.folder / name).symlink_to(elsewhere)
    with pytest.raises(RunError, match=f"{name} is a symbolic link"):
        finish(run)
    with pytest.raises(RunError, match=f"{name} is a symbolic link"):
        open_run(run.folder)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["lock", "state.json", "events.jsonl", "control", "run.log", "config.yaml"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(name: str, tmp_path: Path):
    run = new_run(tmp_path, tiny())
    (run.folder / name).unlink(missing_ok=True)
    os.mkfifo(run.folder / name)
    with pytest.raises(RunError, match=f"{name} is a pipe"):
        finish(run)
    for use in (lambda: run.state, run.events, lambda: run.last_events(3), run.requested, run.holder, run.busy):
        with suppress(RunError, OSError):
            use()


def test_a_message_in_the_log_cannot_look_like_another(tmp_path: Path):
    run = new_run(tmp_path, tiny())
    run.log('unknown key "x\nssh-rsa AAAA\r2026-01-01 finished\x1b[2J"\n')
    run.log("second")
    first, marked, second = (run.folder / "run.log").read_bytes().decode("ascii").splitlines()
    assert first.endswith(' unknown key "x')
    assert marked == '    | ssh-rsa AAAA\\r2026-01-01 finished\\x1b[2J"'
    assert second.endswith(" second")


def test_a_run_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = new_run(tmp_path, tiny())
    enqueue(run)
    assert runs_in(tmp_path) == [run]
    stat = os.stat_result
    owner = run.folder.stat().st_uid

    def of_another(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        values = list(os.stat(path, follow_symlinks=follow_symlinks))
        if path == run.folder:
            values[4] = owner + 1
        return stat(values)

    monkeypatch.setattr(Path, "stat", of_another)
    assert runs_in(tmp_path) == []
    with pytest.raises(RunError, match="belongs to another user; copy"):
        enqueue(run)
    mine = new_run(tmp_path, tiny())
    assert mine.folder.name == run.folder.name + "-2"
    assert runs_in(tmp_path) == [mine]


def test_a_file_that_cannot_be_opened_is_not_held(tmp_path: Path):
    assert not is_held(tmp_path / "nothing")
    assert not is_held(tmp_path)
    run = new_run(tmp_path, tiny())
    with run.locked():
        assert is_held(run.folder / "lock")
