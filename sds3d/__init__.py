"""sds3d: text to 3D by score distillation.

import sds3d

asset = sds3d.generate("a red mug", preset="splats", steps=200)
asset.save("mug.glb")
asset.mesh(), asset.splats(), asset.pictures()

for preview in sds3d.stream("a red mug"):
    show(preview.rgb)
"""

from typing import TYPE_CHECKING

from sds3d.version import __version__ as __version__

__all__ = ["Asset", "Preview", "generate", "stream"]

if TYPE_CHECKING:
    from sds3d.run.asset import Asset, Preview, generate, stream


def __getattr__(name: str) -> object:
    """Import the heavy modules only when they are used, so that the command line's help is quick."""
    if name in __all__:
        from sds3d.run import asset

        return getattr(asset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
