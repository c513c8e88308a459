"""Runs on a Ray cluster: two real nodes on this machine, one of which dies."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sds3d.files import RunError
from sds3d.jobs import ray_engine
from sds3d.jobs.batch import make_batch
from sds3d.jobs.prompts_file import read_prompts
from sds3d.jobs.queue import enqueue
from sds3d.jobs.ray_engine import RayWorker, places, supervise
from sds3d.jobs.worker import work
from sds3d.jobs.worker_settings import WorkerSettings
from sds3d.run.folder import list_runs
from tests.browser.studio import QUICK, wait_for
from tests.jobs.test_batch import ROOT, manifest, results, running

SETTINGS = [*QUICK, "steps=8", "checkpoint_every=3", "export.frames=4", "export.formats=[glb]"]
PROMPTS = "a red mug\na blue chair\n"


def begin(folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start a batch in its own process."""
    (folder / "prompts.txt").write_text(PROMPTS)
    command = ["batch", str(folder / "prompts.txt"), "--out", str(folder / "out"), "--threads", "1", *SETTINGS, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "sds3d", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of one node, with room for one run."""
    utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = utils.Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_dying_node_changes_no_results(cluster: Any, tmp_path: Path):
    node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
    (tmp_path / "ray").mkdir()
    process = begin(tmp_path / "ray", "--engine", "ray", "--address", cluster.address)
    wait_for(lambda: running(tmp_path / "ray") or process.poll() is not None)
    cluster.remove_node(node, allow_graceful=False)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert [row["status"] for row in manifest(tmp_path / "ray")] == ["done"] * 2
    assert "raylet" not in output  # Ray's own messages go to a file

    alone = make_batch(tmp_path / "alone" / "out", read_prompts(tmp_path / "ray" / "prompts.txt", overrides=SETTINGS))
    for job in alone.jobs:
        enqueue(job.run)
    work(alone.root, settings=WorkerSettings(threads=1))  # in this process
    assert len(results(tmp_path / "alone")) > 3
    assert results(tmp_path / "ray") == results(tmp_path / "alone")
    logs = [(run.folder / "run.log").read_text() for run in list_runs(tmp_path / "ray" / "out")]
    assert all(log.count("finished in") == 1 for log in logs)
    deaths = [log for log in logs if "its Ray worker on" in log]
    assert len(deaths) <= 1  # none, if the node was between two runs


def test_without_ray_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest)

    names = queued(tmp_path)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match=r'Ray is not installed: run pip install "\.\[ray\]"'):
        next(supervise(tmp_path, names, WorkerSettings()))


@pytest.mark.parametrize(("address", "why"), [("127.0.0.1:9", "refused"), ("nowhere.invalid:6379", "")])
def test_a_cluster_that_does_not_respond(address: str, why: str, tmp_path: Path):
    pytest.importorskip("ray")
    with pytest.raises(RunError, match=f"no Ray cluster answers at {address}: .*{why}"):
        next(supervise(tmp_path, queued(tmp_path), WorkerSettings(), address))


def test_a_node_that_cannot_see_the_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = queued(tmp_path)
    monkeypatch.setattr(ray_engine, "SHARED", 0.0)
    worker = RayWorker()
    with pytest.raises(RunError, match="cannot see /nowhere; choose an --out on a file system that all nodes mount"):
        worker.ready("/nowhere", names[0], "/", "cpu", 1, 2)
    monkeypatch.chdir(tmp_path)
    worker.ready(str(tmp_path), names[0], "/no/such/folder", "cpu", 1, 2)
    assert Path.cwd() == tmp_path
    worker.ready(str(tmp_path), names[0], str(tmp_path.parent), "cpu", 1, 2)
    assert Path.cwd() == tmp_path.parent


def queued(folder: Path) -> list[str]:
    (folder / "prompts.txt").write_text(PROMPTS)
    batch = make_batch(folder, read_prompts(folder / "prompts.txt"))
    for job in batch.jobs:
        enqueue(job.run)
    return batch.names


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerAddress": name, "Alive": alive, "Resources": resources}


def test_one_actor_per_gpu_or_per_few_cpus():
    cpus = [node("a", CPU=20), node("b", CPU=2), node("c", CPU=0), node("d", alive=False, CPU=8)]
    assert [(place.node, place.number, place.cpus) for place in places(cpus)] == [("a", 0, 8), ("a", 1, 8), ("b", 0, 2)]
    assert [(place.node, place.cpus) for place in places(cpus, threads=10)] == [("a", 10), ("a", 10), ("b", 2)]
    gpus = places([*cpus, node("e", GPU=2, CPU=16)])
    assert [(place.node, place.number, place.gpu) for place in gpus] == [("e", 0, True), ("e", 1, True)]
    assert gpus[0].resources == {"num_gpus": 1.0, "num_cpus": 0.0}
