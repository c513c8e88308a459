"""DreamFusion in about 100 lines.

The whole method (Poole et al. 2022, arXiv:2209.14988) with our own loop: a radiance field, random cameras, a word for
each view, score distillation, Adam. From the library come the field's renderer, the cameras and the prior; `optimize`
is not used.

The prior sees text and pictures, never a camera, as in the paper. The result has the paper's strengths and its flaw:
look for a second handle (the Janus problem). `MULTIVIEW = True` lets the embedded prior see the cameras.
"""

import os

import torch

from sds3d.cameras import CameraConfig, sample_cameras, turntable
from sds3d.formats.export import asset_files
from sds3d.formats.pictures import contact_sheet
from sds3d.geometry.mesh import EmptySurfaceError
from sds3d.priors.base import add_noise, expand
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.prompt import view_dependent, view_name
from sds3d.representations.voxel_grid import VoxelGridConfig, VoxelGridScene

PROMPT = "a red mug"
STEPS = int(os.environ.get("SDS3D_STEPS", "300"))
SCALE = 10.0  # of guidance; the paper's 100 suits Imagen and over-saturates here
MULTIVIEW = False

generator = torch.Generator().manual_seed(0)
prior = DiffusersConfig(model="toybox", multiview=MULTIVIEW).load()
scene = VoxelGridScene(VoxelGridConfig(resolution=48), generator)
optimizer = torch.optim.Adam(scene.parameter_groups(), eps=1e-15)
views = CameraConfig(views=4, size=prior.image_size)

# A text for each side ("a red mug, back view"), and the empty text, encoded once.
texts = view_dependent(PROMPT)
encoded = {name: prior.encode_text([text]) for name, text in texts.items()}
plain, null = prior.encode_text([PROMPT]), prior.encode_text([""])


def conditions(cameras):
    """Return the text of each view, followed by as many empty texts."""
    names = [view_name(a, e) for a, e in zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)]
    rows = [plain if MULTIVIEW else encoded[name] for name in names]
    return type(null).cat([*rows, null.repeat(len(rows))])


def sds(x, cameras, progress):
    """Return the gradient of score distillation at x (B, C, h, w): w(t) (eps_guided - eps)."""
    count = len(x)
    # High noise decides the shape first, low noise the details later. All views of a step have one t.
    low, high = 0.6 + (0.05 - 0.6) * progress, 0.98 + (0.45 - 0.98) * progress
    t = (low + (high - low) * torch.rand(1, generator=generator)).expand(count)  # (B,)
    eps = torch.randn(x.shape, generator=generator)
    both = torch.cat([torch.arange(count)] * 2)
    x_t = add_noise(prior, x, eps, t)[both]  # (2B, C, h, w)
    seen = cameras[both] if MULTIVIEW else None
    with torch.no_grad():
        positive, negative = prior.predict(x_t, t[both], conditions(cameras), seen).eps.chunk(2)
    guided = negative + SCALE * (positive - negative)
    return expand(prior.sigma(t) ** 2, x) * (guided - eps)


for step in range(STEPS):
    progress = step / max(STEPS - 1, 1)
    cameras = sample_cameras(views, generator)
    background = 0.5 + 0.5 * torch.rand(3, generator=generator)
    rendering = scene.render(cameras, background)  # rgb (B, H, W, 3)
    x = prior.encode_image(rendering.rgb)  # (B, C, h, w), differentiable
    gradient = sds(x.detach(), cameras, progress)
    gradient *= (0.25 + (0.04 - 0.25) * progress) / gradient.square().mean().sqrt()  # one size in every step

    # SDS has no loss: its gradient enters the graph at x. Regularisers against fog are ordinary losses.
    losses = scene.regularisers(rendering, progress)
    optimizer.zero_grad()
    torch.autograd.backward([x, *losses.values()], [gradient / len(x), *[None] * len(losses)])
    rate = min(1.0, (step + 1) / 10) * (1 - 0.8 * progress)
    for group, base in zip(optimizer.param_groups, scene.parameter_groups(), strict=True):
        group["lr"] = rate * base["lr"]
    optimizer.step()
    scene.after_step(step, optimizer)
    if (step + 1) % max(STEPS // 10, 1) == 0:
        print(f"step {step + 1} of {STEPS}: mean opacity {rendering.alpha.mean().item():.2f}")

with torch.no_grad():
    around = scene.render(turntable(8, size=128), torch.ones(3)).rgb.clamp(0, 1).numpy()
contact_sheet([("", around)], title=PROMPT, size=128).save("dreamfusion.png")
try:
    mesh = scene.to_mesh(resolution=96)
    for name, data in asset_files(["glb"], "dreamfusion", mesh).items():
        with open(name, "wb") as file:
            file.write(data)
    print(f"dreamfusion.glb: {len(mesh.faces)} faces")
except EmptySurfaceError as error:
    print(error)  # after very few steps
