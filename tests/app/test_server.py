"""Access to the studio."""

from __future__ import annotations

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
