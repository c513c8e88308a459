"""Cameras and pictures, without any optimisation.

Every representation renders the same four pictures from any cameras: colour, opacity, depth and normals. Here a mesh of
the toy world becomes Gaussian splats, and an orbit of six cameras looks at them.
"""

import numpy as np
import torch

from sds3d.cameras import orbit
from sds3d.formats.pictures import contact_sheet
from sds3d.representations.base import Start
from sds3d.representations.contents import source_of
from sds3d.representations.gaussians import GaussiansConfig
from sds3d.toybox.objects import build
from sds3d.toybox.world import Spec

mesh = build(Spec("teapot", "blue", "red"), np.random.default_rng(0))
start = Start(torch.Generator().manual_seed(0), steps=1, before=source_of(mesh))
scene = GaussiansConfig(count=20_000).make(start)

# Azimuth 0 looks at the front, azimuth 90 at the object's left side (its own left, +X); degrees and metres.
cameras = orbit([0, 60, 120, 180, 240, 300], elevation=20.0, distance=2.1, fovy=30.0, size=128)
with torch.no_grad():
    view = scene.render(cameras, torch.ones(3))  # over white

solid = view.alpha > 0.5
depth = view.depth / view.alpha.clamp_min(0.01)  # depth is weighted by opacity
near, far = depth[solid].min(), depth[solid].max()
print(f"rgb {tuple(view.rgb.shape)}, depth from {near:.2f} to {far:.2f} m")
print(f"camera centres:\n{cameras.position().numpy().round(2)}")

shade = (0.2 + 0.8 * (far - depth) / (far - near)) * solid  # near is bright
rows = [
    ("rgb", view.rgb),
    ("alpha", view.alpha.expand_as(view.rgb)),
    ("depth", shade.expand_as(view.rgb)),
    ("normal", (0.5 + 0.5 * view.normal) * view.alpha + (1 - view.alpha)),
]
headings = [f"{azimuth:.0f}°" for azimuth in cameras.azimuth.tolist()]
contact_sheet([(name, picture.clamp(0, 1).numpy()) for name, picture in rows], headings).save("cameras.png")
