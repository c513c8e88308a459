"""The first asset: from a prompt to files.

`generate` makes an asset, resumes one that was stopped, or returns one that is finished already: run this script twice
and the second time takes no time. The run is a folder under `runs/`, the same that `sds3d generate` makes.
"""

import os

import sds3d

STEPS = int(os.environ.get("SDS3D_STEPS", "300"))

asset = sds3d.generate("a red mug", steps=STEPS)

mesh = asset.mesh()
print(f"{len(mesh.vertices)} vertices, {len(mesh.faces)} faces, {1000 * mesh.volume():.0f} litres")

asset.save("mug.glb")  # a mesh with a texture: Blender, Unity, three.js
asset.save("mug.spz")  # Gaussian splats on its surface
print("all files of the run:")
for path in sorted(asset.run.exports.iterdir()):
    print(f"  {path}")
