"""sds3d: text to 3D by score distillation.

import sds3d

asset = sds3d.generate("a red mug", preset="splats", steps=200)
asset.save("mug.glb")
asset.mesh(), asset.splats(), asset.pictures()

for preview in sds3d.stream("a red mug"):
    show(preview.rgb)
"""

import os
import sys
from typing import TYPE_CHECKING

from sds3d.version import __version__ as __version__

__all__ = ["Asset", "Preview", "generate", "stream"]

if sys.platform == "darwin":  # torch reads it at its start: what Apple's GPUs lack is computed on the CPU
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

if TYPE_CHECKING:
    from sds3d.run.asset import Asset, Preview, generate, stream


def __getattr__(name: str) -> object:
    """Import the heavy modules only when they are used, so that the command line's help is quick."""
    if name in __all__:
        from sds3d.run import asset

        return getattr(asset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
