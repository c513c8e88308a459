"""Whether colours that a text leaves open are taken from the picture beside it, see `prompts.image`.

Toy objects of held-out combinations, each with an accent part whose colour the prompt does not name and which is not
the usual one. The prior is shown the true object from one side. The scorer reads the colour of the accent part from
the views: those of samples, and those of objects that runs made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sds3d.cameras import Cameras, orbit, turntable
from sds3d.devices import pick_device, set_threads
from sds3d.evaluation.picture_scores import unseen_views
from sds3d.evaluation.results import markdown_table, write_results
from sds3d.files import PriorError, write_atomically
from sds3d.formats.pictures import contact_sheet, png, to_uint8
from sds3d.geometry.mesh import Mesh
from sds3d.guidance.sampling import Conditions, sample, sampling_times
from sds3d.priors.base import Prior
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.prompt import slug
from sds3d.rendering.shading import shade_mesh
from sds3d.run.config import make_config, new_run
from sds3d.run.drive import drive
from sds3d.toybox.captions import held_out, prompt
from sds3d.toybox.objects import build
from sds3d.toybox.scorer import Scorer, load_scorer, score
from sds3d.toybox.world import DEFAULT_ACCENT, Spec

SHOWN = orbit([30.0], 15.0, size=128)
"""Camera of the picture that the prior is shown."""
SEED = 631
"""Seed of the objects."""
STEPS = 20
HEADER = ("made from", "objects", "accent's colour is that of the picture", "main colour is right")


def style_specs(count: int, kinds: Sequence[str]) -> list[Spec]:
    """Return held-out objects of these kinds, which take turns, with an accent that is neither usual nor the main
    colour.
    """
    rng = np.random.default_rng(SEED)
    of_kind: dict[str, list[Spec]] = {kind: [] for kind in kinds}
    for spec in sorted(held_out(), key=prompt):
        if spec.category in of_kind and spec.accent not in (None, spec.color, DEFAULT_ACCENT[spec.category]):
            of_kind[spec.category].append(spec)
    orders = {kind: rng.permutation(len(specs)) for kind, specs in of_kind.items()}
    turns = [(turn, kind) for turn in range(max(map(len, of_kind.values()))) for kind in kinds]
    return [of_kind[kind][orders[kind][turn]] for turn, kind in turns if turn < len(of_kind[kind])][:count]


def reading(scorer: Scorer, views: Tensor) -> tuple[str, str]:
    """Return the main colour and the accent that most views (B, H, W, 3) in [0, 1] show."""
    read = score(scorer, views)
    color, accent = (Counter(names).most_common(1)[0][0] for names in (read.color, read.accent))
    return color, accent


def sampled(prior: Prior, text: str, picture: Tensor | None, seed: int) -> Tensor:
    """Return four views (4, S, S, 3) of a sample. picture: (1, T, D) embeddings, or None."""
    positive, negative = prior.encode_text([text] * 4), prior.encode_text([""] * 4)
    if picture is not None:
        positive = replace(positive, pictures=picture.expand(4, -1, -1))
    cameras = turntable(4, size=prior.image_size).to(prior.device)
    like = prior.encode_image(torch.zeros(4, prior.image_size, prior.image_size, 3, device=prior.device))
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    conditions = Conditions(cameras, positive, negative)
    return prior.decode(sample(prior, noise, conditions, sampling_times(prior, STEPS))).cpu()


def bench(
    root: Path,
    model: str,
    objects: int,
    runs: int = 0,
    preset: str = "splats",
    overrides: Sequence[str] = (),
    device: str = "",
    threads: int = 0,
    report: Callable[[str, int, int], None] = lambda name, step, total: None,
) -> dict[str, list[tuple[bool, bool]]]:
    """Measure samples of `objects` objects, and runs of the first `runs` of them. Write style.json, .md and .png.

    Returns for each row of the table whether accent and main colour are right, by object. Raises PriorError if the
    prior takes no pictures or is none of the toy world.
    """
    set_threads(threads)
    settings = DiffusersConfig(model=model)
    prior, words, scorer = settings.load(pick_device(device)), settings.vocabulary(), load_scorer()
    if not prior.takes_pictures or words is None:
        raise PriorError(f"{model!r} takes no pictures: make one that does, sds3d toybox train --pictures")
    results: dict[str, list[tuple[bool, bool]]] = {}
    sheet = []

    def note(row: str, spec: Spec, views: Tensor) -> Tensor:
        color, accent = reading(scorer, views)
        results.setdefault(row, []).append((accent == spec.accent, color == spec.color))
        return views[:4]

    for number, spec in enumerate(style_specs(objects, tuple(words.kinds))):
        bare, mesh = prompt(replace(spec, accent=None)), build(spec, np.random.default_rng([SEED, number]))
        shown = _true_views(mesh, SHOWN)
        picture = prior.encode_picture(shown)
        rows = [note("truth", spec, _true_views(mesh, turntable(4, size=prior.image_size)))]
        for row, text, given in (
            ("samples: text alone", bare, None),
            ("samples: text and picture", bare, picture),
            ("samples: text that names both colours", prompt(spec), None),
        ):
            report(f"{prompt(spec)}: {row}", number, objects)
            rows.append(note(row, spec, sampled(prior, text, given, number)))
        sheet.append((prompt(spec), torch.cat(rows).numpy()))
        if number < runs:
            file = root / "given" / f"{slug(prompt(spec))}.png"
            write_atomically(file, png(Image.fromarray(to_uint8(shown[0].numpy()))))
            given = {"prior": settings.model_dump(), "prompts": {"image": str(file)}, "export": {"formats": ["ply"]}}
            run = new_run(root / "runs", make_config(bare, preset, overrides, given))
            for step in drive(run, device=device, threads=threads, prior=prior):
                report(f"{prompt(spec)}: run", step.step, step.total)
            note("runs: text and picture", spec, torch.from_numpy(unseen_views(run)))
        _write(root, overrides, results, sheet)
    return results


def _true_views(mesh: Mesh, cameras: Cameras) -> Tensor:
    return torch.from_numpy(shade_mesh(mesh, cameras, (1.0, 1.0, 1.0), supersampling=3)[0])


def _write(
    root: Path,
    overrides: Sequence[str],
    results: Mapping[str, list[tuple[bool, bool]]],
    sheet: Sequence[tuple[str, np.ndarray]],
) -> None:
    titles = [word for name in ("truth", "text", "text and picture", "both named") for word in (name, "", "", "")]
    write_atomically(root / "style.png", png(contact_sheet(sheet, titles, size=64)))
    details = {"settings": list(overrides), "right": dict(results)}
    write_results(root, "style", details, markdown_table(HEADER, table(results)))


def table(results: Mapping[str, Sequence[tuple[bool, bool]]]) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [row, str(len(right)), *(f"{np.mean([pair[i] for pair in right]):.0%}" for i in (0, 1))]
        for row, right in results.items()
    ]
