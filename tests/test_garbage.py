"""Imports without the work of the garbage collector."""

import gc
import weakref

import pytest

from sds3d.garbage import importing


class Node:
    """An object in a circle of its own, which only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_made_meanwhile_stays_and_what_was_garbage_goes():
    before = weakref.ref(Node())
    try:
        with importing():
            assert before() is None
            assert not gc.isenabled()
            made = weakref.ref(Node())
        gc.collect()
        assert gc.isenabled()
        assert made() is not None
    finally:
        gc.unfreeze()
    gc.collect()
    assert made() is None


def test_after_an_error_garbage_is_collected_again():
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()
