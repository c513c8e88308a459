"""The files beside an asset that it refers to, such as materials, textures and buffers."""

from __future__ import annotations

import re
import warnings
from pathlib import Path


class Neighbours:
    """The files in a folder and below it. Others are refused, with a warning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def read(self, name: str) -> bytes:
        """Return the bytes of a file by its relative path.

        As on Windows, where many files are made, both slashes separate folders, and upper and lower case are the same
        if no file has exactly the name. Of a path with a drive, such as C:\\maps\\a.png, only the name counts.
        Raises OSError for a file that is missing or outside the folder, after a warning.
        """
        name = name.strip()
        relative = name.replace("\\", "/")
        if re.match(r"[A-Za-z]:/", relative):
            relative = relative.rpartition("/")[2]
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder):
            warnings.warn(f"{name} is outside the asset's folder and is left out", stacklevel=2)
            raise PermissionError(name)
        if not path.is_file() and path.parent.is_dir():
            wanted = path.name.casefold()
            path = next((other for other in sorted(path.parent.iterdir()) if other.name.casefold() == wanted), path)
        if not path.is_file() or not path.resolve().is_relative_to(self.folder):
            warnings.warn(f"{name} is missing in the asset's folder and is left out", stacklevel=2)
            raise FileNotFoundError(name)
        return path.read_bytes()
