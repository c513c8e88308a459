from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.evaluation import generator_scores
from sds3d.evaluation.asset_scores import bench_prompts
from sds3d.evaluation.generator_scores import Case, bench, measure, settings, training_prompts
from sds3d.guidance.asd import ASDConfig
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.run.generated_start import load_for, start_path
from sds3d.run.generator_pictures import encoded
from sds3d.toybox.captions import held_out, prompt
from sds3d.toybox.scorer import load_scorer

KINDS = load_scorer().kinds


def test_sets_of_prompts_nest_and_hold_nothing_back_for_the_test() -> None:
    few, many = training_prompts(16, KINDS), training_prompts(160, KINDS)
    assert many[:16] == few
    assert {spec.category for spec in few} == set(KINDS)
    assert len(set(many)) == 160
    assert not set(many) & set(held_out())


def test_a_training_has_rule_and_gradient_of_its_preset() -> None:
    config = settings(Case("asd", 16), ["steps=7"], KINDS)
    assert isinstance(config.guidance, ASDConfig)
    assert config.guidance.scale == 5
    assert [transform.name for transform in config.gradient] == ["normalize"]
    assert len(config.texts) == 16
    assert config.steps == 7
    assert not settings(Case("asd", 0), [], KINDS).texts


def test_the_generator_that_ships_makes_what_it_was_never_shown() -> None:
    prior = DiffusersConfig().load()
    texts = {spec: encoded(prior, prompt(spec)) for spec in bench_prompts(4, KINDS)}
    generator = load_for(start_path("instant"), prior, next(iter(texts.values())))
    scores = measure(generator, texts, load_scorer())
    assert scores.objects == 4
    assert scores.right > 0.95


@pytest.mark.slow
def test_a_finished_benchmark_is_read_and_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_scores, "SCORED", 2)
    small = ["steps=2", "cameras.size=16", "generator.width=16", "generator.layers=1", "generator.patches=2"]
    steps: list[tuple[str, int, int]] = []

    def report(name: str, step: int, total: int, _: dict[str, float]) -> None:
        steps.append((name, step, total))

    first = bench(tmp_path, [Case("toybox", 2)], load_scorer(), small, "cpu", report)
    assert steps == [("toybox, 2 prompts", 1, 2), ("toybox, 2 prompts", 2, 2)]
    steps.clear()
    assert bench(tmp_path, [Case("toybox", 2)], load_scorer(), small, "cpu", report) == first
    assert not steps
    assert (tmp_path / "toybox-2.png").is_file()
    assert "| `toybox` | 2 |" in (tmp_path / "generators.md").read_text(encoding="utf-8")
