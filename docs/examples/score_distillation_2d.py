"""Score distillation on a plain picture.

The gradient of SDS in a dozen lines. The latent of one picture is optimised against the frozen prior. No 3D is
involved, so this is the place to see what a guidance scale does: SDS (Poole et al. 2022, arXiv:2209.14988) gives soft
colours at a small scale and over-saturates at DreamFusion's scale of 101.
"""

import os

import torch

from sds3d.formats.pictures import contact_sheet
from sds3d.priors.base import add_noise
from sds3d.priors.diffusers import DiffusersConfig

STEPS = int(os.environ.get("SDS3D_STEPS", "300"))
SCALES = (1.0, 7.5, 101.0)

prior = DiffusersConfig(model="toybox", multiview=False).load()
text = prior.encode_text(["a red mug, front view", ""])  # prompt and empty prompt
size = prior.image_size

rows = []
for scale in SCALES:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        grey = prior.encode_image(torch.full((1, size, size, 3), 0.5))
    x = torch.nn.Parameter(torch.zeros_like(grey))  # (1, C, h, w)
    optimizer = torch.optim.Adam([x], lr=0.05)
    stages = []
    for step in range(STEPS):
        t = 0.02 + 0.96 * torch.rand(1, generator=generator)  # (1,)
        eps = torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            x_t = add_noise(prior, x, eps, t)
            both = prior.predict(x_t.repeat(2, 1, 1, 1), t.repeat(2), text, None).eps  # (2, C, h, w)
            eps_guided = both[1:] + scale * (both[:1] - both[1:])
            x.grad = prior.sigma(t) ** 2 * (eps_guided - eps)  # the gradient of SDS; no gradient of the prior
        optimizer.step()
        if (step + 1) % max(STEPS // 5, 1) == 0:
            with torch.no_grad():
                stages.append(prior.decode(x)[0])
    rows.append((f"scale {scale:g}", torch.stack(stages[:5]).numpy()))
    print(f"scale {scale:g}: latents of standard deviation {x.std().item():.2f}")

contact_sheet(rows, title="a red mug, by SDS", size=128).save("sds-2d.png")
