"""One prompt in three representations.

The guidance rule and the prior stay the same; one setting changes the representation.
"""

import os

import sds3d
from sds3d.formats.pictures import contact_sheet
from sds3d.priors.diffusers import DiffusersConfig

STEPS = int(os.environ.get("SDS3D_STEPS", "150"))

prior = DiffusersConfig(model="toybox").load()
rows = []
for name in ("voxel_grid", "gaussians", "mesh"):
    asset = sds3d.generate("a purple duck", preset="toybox", representation=name, steps=STEPS, prior=prior)
    mesh = asset.mesh()
    print(f"{name}: {asset.run.state.seconds:.0f} s, a mesh of {len(mesh.faces)} faces")
    rows.append((name, asset.pictures()))

contact_sheet(rows, title="a purple duck", size=128).save("representations.png")
