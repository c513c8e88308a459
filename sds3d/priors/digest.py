"""The digest of a prior's weights, which tells whether what was made from it is up to date."""

from __future__ import annotations

import hashlib
from pathlib import Path


def weights_digest(folder: Path) -> str:
    """Return the SHA-256, in hex, over the names and contents of a folder's .safetensors files. Raises OSError."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def model_anywhere(model: str) -> str:
    """Return the name of a model so that it works from any folder: a path on this machine becomes an absolute one."""
    path = Path(model).expanduser()
    return str(path.resolve()) if model != "toybox" and path.exists() else model
