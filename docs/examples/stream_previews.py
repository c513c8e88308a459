"""Watch a run: previews while it optimises.

`stream` yields a preview every two seconds (`every=`), and one at the end with the finished asset. Stop iterating and
the run is paused; the same call resumes it.
"""

import os
from pathlib import Path

import sds3d
from sds3d.formats.pictures import to_png

STEPS = int(os.environ.get("SDS3D_STEPS", "200"))

folder = Path("previews")
folder.mkdir(exist_ok=True)
for preview in sds3d.stream("a yellow duck", steps=STEPS, every=2.0):
    losses = ", ".join(f"{name} {value:.1f}" for name, value in preview.losses.items())
    print(f"step {preview.step} of {preview.total}: {losses}")
    # preview.rgb holds the views of the step, (B, H, W, 3) in [0, 1]; a PNG shows them side by side.
    (folder / f"{preview.step:04d}.png").write_bytes(to_png(preview.rgb))
print(f"finished: {preview.asset.folder}")
