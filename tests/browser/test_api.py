"""The HTTP API, called with `gradio_client`, and files that must not be available over HTTP."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trimesh
from gradio_client import Client

from sds3d.app.visitors import Access, give_access
from sds3d.run.config import read_config
from sds3d.run.folder import Run
from tests.browser.studio import ROOT, Studio, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def client(studio: Studio, tmp_path: Path) -> Iterator[Any]:
    """An API client with a folder for downloads."""
    calling = Client(studio.url, verbose=False, download_files=str(tmp_path))
    yield calling
    calling.close()


def test_a_script_generates_waits_and_downloads(client: Any, studio: Studio):
    name = client.predict("a red hat", seed=4, settings=["guidance.scale=5"], api_name="/generate")
    run = Run(studio.runs / name)
    assert read_config(run) == studio.config("a red hat", "seed=4", "guidance.scale=5")
    status: dict[str, Any] = {}

    def finished() -> bool:
        status.update(client.predict(name, api_name="/status"))
        return status["status"] not in ("queued", "starting", "running", "exporting")

    wait_for(finished)
    assert status == {
        "status": "done",
        "step": 4,
        "total": 4,
        "error": "",
        "position": 0,
        "starts_in": 0.0,
        "seconds_left": 0.0,
    }
    files = [Path(path) for path in client.predict(name, api_name="/files")]
    calling = Client(studio.url, verbose=False, download_files=False)
    named = calling.predict(name, api_name="/files")
    calling.close()
    assert [file["path"] for file in named] == [f"{name}/{path.name}" for path in files]
    assert str(studio.folder) not in str(named)
    assert {path.name for path in files} == {path.name for path in run.exports.iterdir()}
    assert files[0].name == "a-red-hat.glb"
    assert not files[0].is_relative_to(studio.folder)
    assert len(trimesh.load_mesh(files[0]).faces) > 100
    # The same call is the same run.
    assert client.predict("a red hat", seed=4, settings=["guidance.scale=5"], api_name="/generate") == name


def test_a_script_stops_and_resumes(client: Any, studio: Studio):
    name = client.predict("a blue boat", steps=9000, api_name="/generate")
    run = Run(studio.runs / name)
    wait_for(lambda: len(run.events()) > 1)
    behind = client.predict("a blue boat", seed=1, steps=9000, api_name="/generate")
    assert client.predict(behind, api_name="/status")["position"] == 1
    assert client.predict(behind, "cancel", api_name="/stop") == "cancelled"
    client.predict(name, "pause", api_name="/stop")
    wait_for(lambda: client.predict(name, api_name="/status")["status"] == "paused")
    step = run.state.step
    assert client.predict(name, api_name="/resume") in ("queued", "starting", "running")
    wait_for(lambda: len(run.events()) > step)
    client.predict(name, "cancel", api_name="/stop")
    wait_for(lambda: run.state.status == "cancelled")


ALIASES = "[&a [1, 1], &b [*a, *a], *b]"  # eight nested levels of ten aliases each would need gigabytes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "x" * 100_000}, "shorten it"),
        ({"prompt": "a \x00 mug"}, "control character"),
        ({"prompt": "a mug", "preset": "/etc/passwd"}, "no preset"),
        ({"prompt": "a mug", "preset": "../x.yaml"}, "no preset"),
        ({"prompt": "a mug", "settings": ["guidance.scal=4"]}, 'did you mean "guidance.scale"'),
        ({"prompt": "a mug", "settings": ["nonsense"]}, "KEY=VALUE"),
        ({"prompt": "a mug", "settings": "guidance.scale=4"}, "list of strings"),
        ({"prompt": "a mug", "settings": ["seed=4"]}, "seed as a separate argument"),
        ({"prompt": "a mug", "settings": [f"gradient={ALIASES}"]}, "not a YAML value"),
        ({"prompt": "a mug", "seed": -1}, "whole number"),
        ({"prompt": "a mug", "steps": 10**9}, "100000 or fewer"),
    ],
)
def test_invalid_requests_are_refused_in_one_line(arguments: dict[str, Any], message: str, client: Any):
    with pytest.raises(Exception, match=message):
        client.predict(**arguments, api_name="/generate")


@pytest.mark.parametrize("name", ["..", "../runs", "/etc", "a/../..", "%2e%2e", "a\0b", "none", "", "link"])
def test_only_runs_have_files(name: str, client: Any, studio: Studio, tmp_path: Path):
    link = studio.runs / "link"
    if not link.is_symlink():
        link.symlink_to(tmp_path)  # a run folder outside the folder of runs
    (tmp_path / "config.yaml").write_text("prompt: a red mug\n")
    for endpoint in ("/files", "/status", "/resume"):
        with pytest.raises(Exception, match="no run of that name"):
            client.predict(name, api_name=endpoint)


def test_links_out_of_a_run_are_not_followed(client: Any, studio: Studio):
    run = studio.put("a red link")
    run.exports.mkdir()
    (run.exports / "secret.glb").symlink_to("/etc/hostname")
    (run.exports / "made").symlink_to("/etc")
    (run.exports / "true.glb").write_bytes(b"glTF")
    assert [Path(path).name for path in client.predict(run.folder.name, api_name="/files")] == ["true.glb"]


def test_users_see_their_own_runs_and_shared_ones(guarded: Studio, tmp_path: Path):
    ada, bob = (
        Client(guarded.url, auth=login, verbose=False, download_files=str(tmp_path / login[0]))
        for login in (("ada", "love:lace"), ("bob", "2"))
    )
    name = ada.predict("a red hat", api_name="/generate")
    wait_for(lambda: ada.predict(name, api_name="/status")["status"] == "done")
    files = [Path(path) for path in ada.predict(name, api_name="/files")]
    assert files[0].read_bytes() == (guarded.runs / name / "exports" / files[0].name).read_bytes()
    for endpoint in ("/status", "/files", "/resume"):
        with pytest.raises(Exception, match="no run of that name"):
            bob.predict(name, api_name=endpoint)
    address = f"{guarded.url}/files/{name}/{files[0].name}"
    assert [answer_of(address, cookies) for cookies in (ada.cookies, bob.cookies, {})] == [200, 404, 401]
    with pytest.raises(Exception, match="visitors of this studio may set"):
        bob.predict("a red hat", settings=["particles=60"], api_name="/generate")
    give_access(Run(guarded.runs / name), Access("ada", shared=True))
    assert bob.predict(name, api_name="/status")["status"] == "done"
    assert answer_of(address, bob.cookies) == 200
    with pytest.raises(Exception, match="belongs to somebody else"):
        bob.predict(name, "cancel", api_name="/stop")
    ada.close()
    bob.close()


def answer_of(address: str, cookies: dict[str, str], body: bytes | None = None) -> int:
    """Return the HTTP status of a request."""
    cookie = "; ".join(f"{key}={value}" for key, value in cookies.items())
    request = urllib.request.Request(address, body, {"Cookie": cookie, "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_large_bodies_are_refused_and_forgotten(studio: Studio):
    before = memory(studio)
    body = b'{"data": ["' + b"x" * 20_000_000 + b'"], "fn_index": 0, "session_hash": "a"}'
    for _ in range(12):
        with suppress(urllib.error.URLError):  # the server may close the connection before it has read all
            assert answer_of(f"{studio.url}/gradio_api/queue/join", {}, body) == 413
    assert memory(studio) - before < 20


def memory(studio: Studio) -> float:
    """Return the memory of the server's process in MB."""
    assert studio.server
    pages = int(Path(f"/proc/{studio.server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_files_are_not_served_by_path(studio: Studio):
    run = studio.put("a yellow mug")
    run.exports.mkdir(exist_ok=True)
    (run.exports / "link.glb").symlink_to("/etc/hostname")
    (run.exports / "mine.glb").write_bytes(b"glTF")
    paths = [
        ROOT / "pyproject.toml",
        "/etc/hostname",
        studio.log,
        f"{studio.runs}/../server.log",
        f"{studio.runs}/.served/../../server.log",
        run.exports / "link.glb",
        run.exports / "mine.glb",  # served only as a copy
        run.config_path,
    ]
    for path in paths:
        for written in (str(path), quote(str(path), safe="")):
            with pytest.raises(urllib.error.HTTPError, match=r"40\d"):
                urllib.request.urlopen(f"{studio.url}/gradio_api/file={written}")


def test_only_the_five_endpoints_can_be_called(client: Any):
    known = client.view_api(return_format="dict")
    assert set(known["named_endpoints"]) == {"/generate", "/status", "/files", "/stop", "/resume"}
    assert known["unnamed_endpoints"] == {}


def test_nothing_can_be_uploaded_to_gradio(studio: Studio):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\nabc'
    request = urllib.request.Request(
        f"{studio.url}/gradio_api/upload",
        data=body + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)


def test_other_host_names_are_refused(studio: Studio):
    for host, answer in (("localhost", 200), ("evil.example", 400)):
        request = urllib.request.Request(studio.url, headers={"Host": f"{host}:{studio.port}"})
        if answer == 200:
            assert urllib.request.urlopen(request).status == 200
        else:
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(request)


def test_a_password_is_required_and_never_logged(guarded: Studio):
    with pytest.raises(Exception, match=r"[Cc]redentials|auth|401"):
        Client(guarded.url, verbose=False)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{guarded.url}/gradio_api/file=/etc/hostname")
    calling = Client(guarded.url, auth=("ada", "love:lace"), verbose=False)
    with pytest.raises(Exception, match="no run of that name"):
        calling.predict("none", api_name="/status")
    calling.close()
    assert "love:lace" not in guarded.log.read_text()
