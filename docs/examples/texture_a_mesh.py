"""Paint your own mesh.

The mesh keeps its triangles; only its colours are optimised. Here the mesh is a mug of the toy world without its
colours. Yours can be any .glb, .gltf, .obj, .ply, .stl or .3mf; `up_axis` says which axis points up.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

import sds3d
from sds3d.formats.ply import to_ply
from sds3d.toybox.objects import build
from sds3d.toybox.world import Spec

STEPS = int(os.environ.get("SDS3D_STEPS", "150"))

mug = build(Spec("mug", "white"), np.random.default_rng(0))
Path("plain-mug.ply").write_bytes(to_ply(replace(mug, colors=None)))

asset = sds3d.generate("a green mug", preset="texture", steps=STEPS, start_from="plain-mug.ply")
asset.save("green-mug.glb")

before, after = mug, asset.mesh()
print(f"faces: {len(before.faces)} before, {len(after.faces)} after")
print(f"mean colour: {after.colors.mean(axis=0).round(2)}")
