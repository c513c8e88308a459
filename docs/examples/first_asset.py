"""The first asset: from a prompt to files.

`generate` makes an asset, resumes a stopped one, or returns a finished one: the second time, this script ends at once.
The run is a folder under `runs/`, the same as that of `sds3d generate`.
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
