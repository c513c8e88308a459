"""Every file format by name: those of this package, then those that other packages register.

Importing this imports no parser and no compiled library; readers and writers import theirs when they are called.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sds3d.config import meant
from sds3d.formats.base import FileFormat
from sds3d.formats.glb import GLB
from sds3d.formats.gltf import GLTF
from sds3d.formats.obj import OBJ
from sds3d.formats.ply import PLY
from sds3d.formats.sog import SOG, SOG_FOLDER
from sds3d.formats.splat import SPLAT
from sds3d.formats.splat_glb import SPLAT_GLB
from sds3d.formats.splat_ply import SPLAT_PLY
from sds3d.formats.spz import SPZ
from sds3d.formats.stl import STL
from sds3d.formats.three_mf import THREE_MF
from sds3d.formats.usdz import USDZ
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.splats import Splats
from sds3d.plugins import from_other_packages, refuse_duplicates

AnyFormat: TypeAlias = FileFormat[Mesh] | FileFormat[Splats]

_OURS: tuple[AnyFormat, ...] = (
    GLB,
    GLTF,
    OBJ,
    PLY,
    STL,
    THREE_MF,
    USDZ,
    SPLAT_PLY,
    SPLAT,
    SPZ,
    SPLAT_GLB,
    SOG,
    SOG_FOLDER,
)


def _of_other_packages() -> Iterator[AnyFormat]:
    sources = [(format_.name, "the one of sds3d") for format_ in _OURS]
    for point, registered in from_other_packages("sds3d.formats").items():
        if not isinstance(registered, FileFormat):
            warnings.warn(f'the plug-in "{point}" is not a FileFormat and is left out', stacklevel=2)
            continue
        sources.append((registered.name, f'that of the plug-in "{point}"'))
        refuse_duplicates("sds3d.formats", sources)
        yield registered


FORMATS: dict[str, AnyFormat] = {format_.name: format_ for format_ in (*_OURS, *_of_other_packages())}
"""All formats by name. To read a file they are tried in reverse order, since a later one may be more specific: a GLB
with splats is also a GLB."""

EXPORT_FORMATS = tuple(name for name, format_ in FORMATS.items() if format_.write is not None)
"""Names of the formats that an asset can be written as."""

DEFAULT_FORMATS = tuple(name for name in EXPORT_FORMATS if FORMATS[name].default)
"""Names of the formats that are written when a run names none."""

EXTENSIONS = tuple(dict.fromkeys(format_.extension for format_ in FORMATS.values() if format_.read is not None))
"""Extensions of the files that can be read."""

if TYPE_CHECKING:
    Format: TypeAlias = str
else:
    Format = Literal[EXPORT_FORMATS]


def export_format(name: Any) -> AnyFormat:
    """Return the format of this name. Raises ValueError, with the nearest name, if nothing can be written as it."""
    if name not in EXPORT_FORMATS:
        raise ValueError(f'the format "{name}" is unknown; {meant(str(name), EXPORT_FORMATS)}')
    return FORMATS[name]
