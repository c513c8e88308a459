"""Many prompts in one process.

The prior is loaded once and passed to each run. For a file of prompts, several GPUs or a cluster, use `sds3d batch`.
Run the script again with more prompts: finished runs are found and not repeated.
"""

import os

import sds3d
from sds3d.formats.pictures import contact_sheet
from sds3d.priors.diffusers import DiffusersConfig

STEPS = int(os.environ.get("SDS3D_STEPS", "150"))
PROMPTS = ["a red mug", "a blue house with a red roof", "a green teapot"]

prior = DiffusersConfig(model="toybox").load()
rows = []
for prompt in PROMPTS:
    asset = sds3d.generate(prompt, preset="splats", steps=STEPS, prior=prior)
    rows.append((prompt, asset.pictures()))  # (8, 256, 256, 3), from eight sides
    print(f"{prompt}: {asset.folder}")

contact_sheet(rows, title="A batch", size=96).save("batch.png")
