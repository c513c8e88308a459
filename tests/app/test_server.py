"""Access to the studio."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sds3d.app import launch
from sds3d.app.server import is_local, login
from sds3d.config import ConfigError


def test_passwords_are_not_repeated_and_public_addresses_need_them(tmp_path: Path):
    assert login("ada:love:lace") == ("ada", "love:lace")
    for wrong in ("secret", ":secret", "secret:"):
        with pytest.raises(ConfigError) as error:
            login(wrong)
        assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="--auth"):
        launch(tmp_path, share=True)
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "192.168.1.2", "example.org")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


PROXIES = {
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "socks5://127.0.0.1:9",
    "all_proxy": "socks5://127.0.0.1:9",
}
"""They do not answer: port 9 is closed."""


@pytest.mark.slow
def test_the_studio_starts_where_proxies_are_set(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
from urllib.request import urlopen
from sds3d.app import launch

address = launch(Path(sys.argv[1]), port=int(sys.argv[2]), block=False)
print(urlopen(address).status, os.environ["no_proxy"], os.environ["NO_PROXY"], flush=True)
os._exit(0)
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = PROXIES | {"no_proxy": "intranet"}
    environment = os.environ | settings | {name.upper(): value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(port)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    status, lower, upper = done.stdout.split()
    assert status == "200"
    assert lower == upper == "intranet,localhost,127.0.0.1,::1"


@pytest.mark.slow
def test_forms_of_visitors_who_left_are_let_go(tmp_path: Path):
    code = """
import asyncio, gc, os, sys
from pathlib import Path
from sds3d.app import launch, server, studio
from gradio.blocks import Block, BlockFunction, Blocks
from gradio.state_holder import SessionState
from sds3d.evaluation.studio_visitor import Diary, noted, opened

server.SESSIONS = 1
studio.ensure_workers = lambda root: None
diary = Diary()
address = launch(Path(sys.argv[1]), port=int(sys.argv[2]), block=False)

async def visits():
    for _ in range(2):
        with noted(diary):
            async with opened(address, diary) as page:
                counts = []
                for _ in range(3):
                    for event in list(page.events):
                        if any(name == "tick" for _, name in event["targets"]):
                            await page.fire("progress", event)
                        if event["rendered_in"] is None and any(name == "load" for _, name in event["targets"]):
                            await page.fire("the form again", event)
                    sessions = [each for each in gc.get_objects() if isinstance(each, SessionState)]
                    counts.append(sum(len(each.blocks_config.blocks) for each in sessions))
                assert counts[0] == counts[1] == counts[2], counts

for _ in range(2):
    asyncio.run(visits())
    gc.collect()
    sets = sum(len(each.temp_file_sets) for each in gc.get_objects() if isinstance(each, Blocks))
    forms = sum(isinstance(each, (Block, BlockFunction)) for each in gc.get_objects())
    print(*diary.errors, forms, sets, flush=True)
os._exit(0)
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(port)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    before, after = (tuple(map(int, line.split())) for line in done.stdout.splitlines())  # its memory is full before
    assert after[0] <= before[0]
    assert after[1] == before[1]
