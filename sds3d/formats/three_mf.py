"""3MF, which slicers open with its unit and its up axis, unlike STL.

Frame: right-handed, +Z up, front -Y, millimetres, as the format defines; see `sds3d.formats.stl`.
Layout: an OPC package (zip) of a content list, one relationship and one model: a mesh whose vertices at one place are
one, as the format asks, and an item that builds it.
Specification: https://github.com/3MFConsortium/spec_core
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

import numpy as np

from sds3d.files import zipped
from sds3d.formats.base import FileFormat, check_faces
from sds3d.formats.three_mf_parts import from_3mf, is_3mf
from sds3d.geometry.mesh import Mesh
from sds3d.geometry.triangles import without_repeated_corners

_TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>
"""
_RELATIONSHIPS = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Id="model" Target="/3D/3dmodel.model"
 Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>
"""
_MODEL = """<?xml version="1.0" encoding="UTF-8"?>
<model unit="millimeter" xml:lang="en-US" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02">
<metadata name="Application">sds3d</metadata>
<resources>
<object id="1" type="model" name=%s>
<mesh>
<vertices>
%s</vertices>
<triangles>
%s</triangles>
</mesh>
</object>
</resources>
<build>
<item objectid="1"/>
</build>
</model>
"""


def to_3mf(mesh: Mesh, name: str = "asset") -> bytes:
    """Return the mesh as one 3MF file, without colours. Triangles without three different corners are left out.

    mesh: in millimetres with +Z up; `sds3d.geometry.placing.for_printing` makes it. name: of the object in the slicer.
    Raises ValueError for a mesh without faces.
    """
    check_faces(mesh, "3MF")
    places, index = np.unique(mesh.vertices[mesh.faces.ravel()], axis=0, return_inverse=True)
    faces = without_repeated_corners(index.reshape(-1, 3))
    if not len(faces):
        raise ValueError("a mesh whose triangles have no area cannot be written as 3MF")
    vertices = (
        '<vertex x="%.7g" y="%.7g" z="%.7g"/>\n' * len(places) % tuple(places.astype(np.float64).ravel().tolist())
    )
    triangles = '<triangle v1="%d" v2="%d" v3="%d"/>\n' * len(faces) % tuple(faces.ravel().tolist())
    model = _MODEL % (quoteattr(name), vertices, triangles)
    package = {"[Content_Types].xml": _TYPES, "_rels/.rels": _RELATIONSHIPS, "3D/3dmodel.model": model}
    return zipped({path: text.encode() for path, text in package.items()})


THREE_MF = FileFormat(
    "3mf", ".3mf", Mesh, write=to_3mf, read=from_3mf, recognises=is_3mf, printed=True, up="z", default=True
)
