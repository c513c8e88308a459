"""Open a run: its settings, curves, scene and checkpoint.

Everything about a run is in its folder. The scene of its newest checkpoint renders from any cameras and exports at any
resolution, also while the run is in progress or after it was stopped.
"""

import os

import sds3d
from sds3d.cameras import turntable
from sds3d.formats.pictures import contact_sheet

STEPS = int(os.environ.get("SDS3D_STEPS", "150"))

folder = sds3d.generate("a pink cat", preset="splats", steps=STEPS).folder

asset = sds3d.Asset(folder)  # any run folder, for example from the command line
print(f"prompt {asset.config.prompt!r}, seed {asset.config.seed}, rule {asset.config.guidance.name}")
print(f"state: {asset.run.state.status} after step {asset.run.state.step}")

events = asset.run.events()  # one for each step
print(f"gradient norm: {events[0]['grad_norm']:.3g} at first, {events[-1]['grad_norm']:.3g} at last")

tensors = asset.run.load_checkpoint()  # flat tensors by name, from a .safetensors file
for name in sorted(tensors)[:5]:
    print(f"  {name}: {tuple(tensors[name].shape)}")

scene = asset.scene()
mesh = scene.to_mesh(resolution=64)
print(f"a coarse mesh: {len(mesh.faces)} faces")
pictures = asset.pictures(turntable(4, elevation=50.0, size=192))  # from above
contact_sheet([("", pictures)], title=asset.config.prompt, size=192).save("cat.png")
