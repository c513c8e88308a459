"""Presets of the training of generators: two steps on tiny random models of the real classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.config import ConfigError, build
from sds3d.generators.files import read_about
from sds3d.presets import load_generator_preset
from sds3d.run.train_generator import GeneratorTraining, train_generator
from tests.priors.tiny import tiny_mvdream, tiny_pipeline
from tests.run.test_real_presets import small

TINY = {"name": "prd", "steps": 2, "rank": 2, "latents": 8, "doublings": 1, "width": 8, "features": 8, "hidden": 8}


def test_two_teachers_on_tiny_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sds3d.representations.field_nerf._CORNERS", 12)
    tiny_pipeline("sd").save_pretrained(tmp_path / "sd21-base")
    tiny_mvdream(tmp_path / "mvdream")
    models = {name: str(tmp_path / name) for name in ("sd21-base", "mvdream")}
    layers = load_generator_preset("prd-mvdream").layers
    tree = small(build(GeneratorTraining, *layers).model_dump(mode="json"), models)
    assert tree["prior"]["model"] == models["sd21-base"]
    assert [other["prior"]["model"] for other in tree["teachers"]] == [models["mvdream"]]
    changes = {"generator": TINY, "texts": ["a red mug"], "steps": 2, "prompts": {"negative": "a chair"}}
    losses: list[dict[str, float]] = []
    config = build(GeneratorTraining, tree | changes)
    folder = train_generator(tmp_path / "mine", config, lambda *told: losses.append(told[3]))
    assert len(losses) == 2
    assert f"by the rule `asd`, `asd` of `{models['mvdream']}` |" in (folder / "CARD.md").read_text()
    assert (read_about(folder).rule, read_about(folder).model) == ("asd", models["sd21-base"])


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match='no preset "prd-mvdrem" of a generator; did you mean "prd-mvdream"'):
        load_generator_preset("prd-mvdrem")
