"""The contracts of representations: a class that lacks a method cannot be instantiated."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from sds3d.representations.base import RepresentationConfig, Scene
from sds3d.representations.field_config import FieldNerfConfig
from sds3d.representations.fields import RadianceField
from sds3d.representations.mesh_appearance import Appearance, AppearanceConfig, Cells
from sds3d.representations.mesh_geometry import GeometryConfig, MeshGeometry


@pytest.mark.parametrize(
    ("contract", "missing"),
    [
        (RepresentationConfig, {"make"}),
        (FieldNerfConfig, {"make_field", "make"}),
        (GeometryConfig, {"make"}),
        (AppearanceConfig, {"make"}),
        (RadianceField, {"forward", "parameter_groups"}),
        (MeshGeometry, {"rates", "surface", "losses", "mesh", "start_from", "after_step"}),
        (Appearance, {"rates", "values", "roughening", "painted", "start_from", "check"}),
        (Cells, {"values", "roughening", "painted", "_start_colors"}),
        (
            Scene,
            {"to_mesh", "render", "parameter_groups", "regularisers", "after_step", "state_dict", "load_state_dict"},
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_class_that_lacks_methods_cannot_be_instantiated(contract: type[Any], missing: set[str]) -> None:
    members: dict[str, Any] = {"name": "unfinished", "__annotations__": {"name": Literal["unfinished"]}}
    members["__module__"] = __name__
    metaclass: Any = type(contract)
    unfinished = metaclass("Unfinished", (contract,), members)
    with pytest.raises(TypeError, match="abstract") as raised:
        unfinished()
    assert all(name in str(raised.value) for name in missing)
    finished = metaclass("Finished", (unfinished,), {"__module__": __name__} | dict.fromkeys(missing, lambda self: 0))
    assert finished.__abstractmethods__ == frozenset()
