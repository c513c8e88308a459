"""Machine code of kernels is stored in the user's cache folder, never next to the source."""

from __future__ import annotations

from pathlib import Path

import numba
import pytest

from sds3d.compiled import njit


def double(x: float) -> float:
    return 2 * x


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_machine_code_is_stored_in_the_users_cache_folder(chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", chosen and str(tmp_path / chosen))
    assert njit(cache=True)(double)(2.0) == 4.0
    (compiled,) = tmp_path.rglob("*.nbc")
    assert compiled.is_relative_to(tmp_path / (chosen or "caches/sds3d/numba"))
    assert (chosen and str(tmp_path / chosen)) == numba.config.CACHE_DIR  # numba's own setting is unchanged


def test_without_a_home_numba_decides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/caches")
    assert njit(cache=True)(double)(2.0) == 4.0
