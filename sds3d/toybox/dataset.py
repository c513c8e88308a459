"""Training data of the toy world: files of rendered objects with tokenised captions, made by worker processes.

File i holds the objects i * OBJECTS ... of an endless set, so a set does not depend on the number of workers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from sds3d.devices import set_threads
from sds3d.prompts.prompt import view_name
from sds3d.states import read_tensors, write_tensors
from sds3d.toybox import materials
from sds3d.toybox.captions import VOCABULARY, caption, prompt, sample_any_spec, sample_spec
from sds3d.toybox.diffusion import make_tokenizer, tokenize
from sds3d.toybox.fit import Report
from sds3d.toybox.material_views import lit_views
from sds3d.toybox.materials import Look
from sds3d.toybox.render import iterate_objects, stack
from sds3d.toybox.world import CATEGORIES, Spec

OBJECTS = 64
"""Objects in a file: 12.6 MB of pictures at 128 px."""
CAPTIONS = 8
"""Captions of an object, and of each of its views."""


@dataclass(frozen=True)
class DataConfig:
    """A set of objects.

    objects: how many, with four views each. seed: of objects and captions. size: height and width in pixels.
    all_combinations: whether those that a prior must not see are in it. tokenizer: folder of a prior, or "" for the toy
    world's own words. kinds: those of the objects. maps: height and width of the maps of the structure; 0: none.
    materials: whether the objects have materials and are lit by random lamps, which the maps tell; it needs maps.
    """

    objects: int
    seed: int
    size: int
    all_combinations: bool = False
    tokenizer: str = ""
    kinds: tuple[str, ...] = CATEGORIES
    maps: int = 0
    materials: bool = False


@dataclass(frozen=True)
class ObjectFile:
    """The content of a file with n objects.

    pictures: (n, 4, S, S, 3) uint8 sRGB. angles: (n, 4, 3) azimuth and elevation in degrees, distance in metres.
    tokens: (n, CAPTIONS, L) int16, without view words. view_tokens: (n, 4, CAPTIONS, L) int16, with them.
    structure: (n, 4, C, M, M) int8, see `ObjectViews`; M is 0 without maps. varied: (n,) bool. prompts: of n objects.
    """

    pictures: Tensor
    angles: Tensor
    tokens: Tensor
    view_tokens: Tensor
    structure: Tensor
    varied: Tensor
    specs: list[Spec]
    prompts: list[str]

    def __len__(self) -> int:
        return len(self.specs)


class Rendering:
    """A set of objects that worker processes render into files of `folder` inside a `with` block.

    What is there already is kept. workers: processes; 1 renders in a thread of this one.
    """

    def __init__(self, folder: Path, config: DataConfig, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.config = folder, config
        self._cut = folder / "files"
        self._ended = self._cut.exists()
        files = int(self._cut.read_text()) if self._ended else -(-config.objects // OBJECTS)
        self._paths = [_path(folder, i) for i in range(files)]
        self._finished = 0
        missing = [i for i, path in enumerate(self._paths) if not path.exists()]
        self._futures: dict[int, Future[None]] = {}
        self._pool: Executor | None = None
        if missing:
            if workers == 1:
                self._pool = ThreadPoolExecutor(1)
            else:
                self._pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
            self._futures = {i: self._pool.submit(render_file, folder, config, i) for i in missing}

    def __enter__(self) -> Rendering:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def files(self) -> list[Path]:
        """Return the finished files from the first on, in order. Raises what a worker process raised."""
        while self._finished < len(self._paths):
            future = self._futures.get(self._finished)
            if future is not None:
                if not future.done() or future.cancelled():
                    break
                future.result()
            self._finished += 1
        return self._paths[: self._finished]

    def wait(self, report: Report, seconds: float | None = None) -> list[Path]:
        """Return the files after that many seconds, at least one; without a limit, when all are finished."""
        begun = time.monotonic()
        for i, future in self._futures.items():
            future.result()
            report("pictures", min((i + 1) * OBJECTS, self.config.objects), self.config.objects, {})
            if seconds is not None and time.monotonic() - begun > seconds:
                break
        return self.files()

    def end(self) -> list[Path]:
        """Begin no further file, and return those of the set, which keeps this size when it is used again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        files = self.files()  # behind a gap, there may be files of a former call
        if len(files) < len(self._paths):
            self._paths = files
            self._cut.write_text(str(len(files)))
        return files


def render_files(folder: Path, config: DataConfig, workers: int, report: Report) -> list[Path]:
    """Render what is missing in `folder`, and return the files of the set, in order.

    workers: see `Rendering`. Raises what a worker process raised.
    """
    with Rendering(folder, config, workers) as rendering:
        return rendering.wait(report)


def _start_worker() -> None:
    set_threads(1)  # the processes already run in parallel
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def render_file(folder: Path, config: DataConfig, index: int) -> None:
    """Render the objects of file `index` and write them with tokenised captions."""
    first = index * OBJECTS
    count = min(OBJECTS, config.objects - first)
    sample = partial(sample_any_spec if config.all_combinations else sample_spec, kinds=config.kinds)
    looks: list[Look] = []
    if config.materials:
        draws = [np.random.default_rng([config.seed, first + i]) for i in range(count)]
        looks = [materials.sample(rng, sample) for rng in draws]
        objects = (lit_views(look, rng, config.size, config.maps) for look, rng in zip(looks, draws, strict=True))
    else:
        objects = iterate_objects(count, config.seed, size=config.size, sample=sample, start=first, maps=config.maps)
    data = stack(objects, count)
    captions = [partial(materials.caption, look) for look in looks] or [partial(caption, spec) for spec in data.specs]
    prompts = [materials.prompt(look) for look in looks] or [prompt(spec) for spec in data.specs]
    angles = np.stack(np.broadcast_arrays(data.azimuth, data.elevation[:, None], data.distance[:, None]), axis=-1)
    encode = partial(tokenize, _tokenizer(config.tokenizer))
    plain, viewed = [], []
    for i, (worded, views) in enumerate(zip(captions, angles.tolist(), strict=True)):
        rng = np.random.default_rng([config.seed, first + i, 1])  # other numbers than the object's
        plain += [worded(rng) for _ in range(CAPTIONS)]
        for azimuth, elevation, _ in views:
            viewed += [worded(rng, view_name(azimuth, elevation)) for _ in range(CAPTIONS)]
    tensors = {
        "pictures": torch.from_numpy(data.pictures),
        "angles": torch.from_numpy(angles.copy()),
        "tokens": encode(plain).reshape(count, CAPTIONS, -1).short(),
        "view_tokens": encode(viewed).reshape(count, 4, CAPTIONS, -1).short(),
    }
    if data.structure is not None:
        tensors |= {"structure": torch.from_numpy(data.structure), "varied": torch.from_numpy(data.varied)}
    specs = [[spec.category, spec.color, spec.accent] for spec in data.specs]
    write_tensors(_path(folder, index), tensors, {"specs": json.dumps(specs), "prompts": json.dumps(prompts)})


def read_objects(path: Path) -> ObjectFile:
    """Read what `render_file` wrote."""
    tensors, metadata = read_tensors(path)
    n = len(tensors["pictures"])
    none = {"structure": torch.zeros(n, 4, 5, 0, 0, dtype=torch.int8), "varied": torch.zeros(n, dtype=torch.bool)}
    specs = [Spec(*values) for values in json.loads(metadata["specs"])]
    prompts = json.loads(metadata["prompts"]) if "prompts" in metadata else [prompt(spec) for spec in specs]
    return ObjectFile(**none | tensors, specs=specs, prompts=prompts)


def joined(paths: Iterable[Path]) -> ObjectFile:
    """Read files of objects as one."""
    files = [read_objects(path) for path in paths]

    def cat(of: Callable[[ObjectFile], Tensor]) -> Tensor:
        return torch.cat([of(file) for file in files])

    return ObjectFile(
        cat(lambda file: file.pictures),
        cat(lambda file: file.angles),
        cat(lambda file: file.tokens),
        cat(lambda file: file.view_tokens),
        cat(lambda file: file.structure),
        cat(lambda file: file.varied),
        [spec for file in files for spec in file.specs],
        [text for file in files for text in file.prompts],
    )


def load_tokenizer(folder: str) -> CLIPTokenizer:
    """Load the tokenizer of a prior's folder, or make that of the toy world for ""."""
    if not folder:
        return make_tokenizer(VOCABULARY)
    return CLIPTokenizer.from_pretrained(Path(folder).expanduser(), subfolder="tokenizer", local_files_only=True)


_tokenizer = cache(load_tokenizer)  # once in each process


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.safetensors"
