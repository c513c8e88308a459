"""Damaged files of every format: each is read, or refused in one line that names the file, in time and in memory.

    python tests/formats/test_mutated_files.py 1000 7

tries 1000 with the seed 7.
"""

from __future__ import annotations

import io
import random
import re
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

from loading import ball
from splat_clouds import cloud

from sds3d.files import zipped
from sds3d.formats.load import AssetError, load_asset
from sds3d.formats.table import FORMATS

DATA = Path(__file__).parents[1] / "data"
MEMORY = 2 << 30
"""Bytes of address space that all files together may add."""
SLOW = 10.0
"""Seconds that no small file may take."""
EXTREME = ("nan", "-1", "0", "1e400", "9" * 400, "4294967295", "-2147483649", "1e-320", "null", "[]", "", "0x10", "1.5")


def originals() -> dict[str, bytes]:
    """Files of the tests' data, and what our writers make of one of them."""
    files = {
        path.name: path.read_bytes()
        for path in sorted(DATA.rglob("*"))
        if path.suffix.lower() in {format_.extension for format_ in FORMATS.values() if format_.read}
        and path.stat().st_size < 200_000
    }
    for asset in (ball(), cloud(40)):
        for format_ in FORMATS.values():
            if format_.write is not None and format_.read is not None and isinstance(asset, format_.holds):
                files |= dict([*format_.files(asset, "ours").items()][:1])
    return files


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change a file in one place or in several; in a zip file, often one of its members."""
    if data[:2] == b"PK" and chance.random() < 0.7:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = chance.choice(sorted(members))
        content = members.pop(name)
        kept = chance.choice((name, name, name, name.upper(), "../" + name, "/" + name, name + "x", ""))
        return zipped({**members, kept: content if kept != name else mutated(content, chance)})
    changed = bytearray(data)
    match chance.randrange(6):
        case 0:
            return data[: chance.randrange(len(data))]
        case 1:
            for _ in range(chance.choice((1, 4, 32))):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        case 2:  # bytes of the beginning, where headers are
            for _ in range(chance.choice((1, 2))):
                changed[chance.randrange(min(len(changed), 120))] = chance.choice((0, 1, 127, 128, 255))
        case 3:  # a number that somebody wrote in letters
            found = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:100_000]))
            if found:
                place = chance.choice(found)
                changed[place.start() : place.end()] = chance.choice(EXTREME).encode()
        case 4:  # a piece is missing, or there twice
            begin, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
            return data[:begin] + data[end:] if chance.random() < 0.5 else data[:end] + data[begin:]
        case 5:
            place = chance.randrange(max(len(changed) - 8, 1))
            changed[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)))
    return bytes(changed)


def try_files(count: int, seed: int) -> list[str]:
    """Load `count` damaged files. Return what is wrong."""
    chance = random.Random(seed)
    files = originals()
    wrong = []
    read = 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            name = sorted(files)[i % len(files)]
            path = Path(folder) / name
            path.write_bytes(mutated(files[name], chance))
            began = time.monotonic()
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    load_asset(path, chance.choice(("auto", "y", "z")))
                read += 1
                lines = [str(warning.message) for warning in caught]
            except AssetError as error:
                lines = [str(error)]
                if "the file is damaged (" in lines[0]:
                    print(f"{i} {name}: nobody foresaw {error.__cause__!r}")
            except BaseException as error:
                wrong.append(f"{i} {name}: {error!r}")
                continue
            wrong += [f"{i} {name}: {line[:300]!r}" for line in lines if "\n" in line or len(line) > 500]
            if (seconds := time.monotonic() - began) > SLOW:
                wrong.append(f"{i} {name}: {seconds:.1f} s")
    print(f"{count} files, of {len(files)} originals, of which {read} could be read")
    return wrong


def test_damaged_files_are_read_or_refused_in_one_line() -> None:
    kept = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used() + MEMORY, kept[1]))
    try:
        assert try_files(200, 0) == []
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)


def used() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (used() + MEMORY, resource.RLIM_INFINITY))
    found = try_files(int(sys.argv[1]), int(sys.argv[2]))
    print("\n".join(found))
    sys.exit(bool(found))
