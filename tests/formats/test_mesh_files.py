"""Properties of all formats of meshes."""

from dataclasses import replace

import numpy as np
import pytest

from sds3d.formats.glb import to_glb
from sds3d.formats.obj import to_obj
from sds3d.formats.ply import to_ply
from sds3d.geometry.mesh import Mesh


def test_files_are_deterministic(textured):
    assert to_glb(textured) == to_glb(textured)
    assert to_obj(textured) == to_obj(textured)
    assert to_ply(textured) == to_ply(textured)


def test_bad_input_is_refused(textured):
    empty = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32))
    for write in (to_glb, to_obj, to_ply):
        with pytest.raises(ValueError, match="without faces"):
            write(empty)
    with pytest.raises(ValueError, match="uv"):
        to_glb(replace(textured, uv=None))
    with pytest.raises(ValueError, match="uv"):
        to_obj(replace(textured, uv=None))
    with pytest.raises(ValueError, match="spaces"):
        to_obj(textured, "red mug")
