"""The bounds of a good prior, the table by kind, and a whole benchmark with one step, shared and continued."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sds3d.cli.main import main
from sds3d.config import assets_dir
from sds3d.evaluation.asset_scores import PIXELS, Asset, AssetScore, choose_prompts, run_of, summary
from sds3d.evaluation.prior_record import PriorRecord, decoder_psnr, noted
from sds3d.evaluation.world_report import check_rows, kind_rows
from sds3d.evaluation.world_scores import Contender, Figures, contenders, make_missing, results_of, verdict
from sds3d.files import RunError, write_atomically
from sds3d.priors.diffusers import DiffusersConfig
from sds3d.prompts.vocabulary import Vocabulary
from sds3d.run.folder import Machine
from sds3d.toybox.scorer import load_scorer

GREY = np.full((8, PIXELS, PIXELS, 3), 0.8, np.float32)
TINY = [
    "steps=1", "representation.resolution=16", "representation.samples=16", "export.formats=[ply]", "export.frames=4",
    "export.picture_size=32", "export.resolution=32", "export.faces=500",
]  # fmt: skip


def assets(*scores: AssetScore) -> list[Asset]:
    return [Asset(score, GREY) for score in scores]


def figures(of: list[Asset], planned: int, decoder: float) -> Figures:
    return Figures(planned, summary([a.score for a in of]), 1.0, PriorRecord("", decoder))


def contender(name: str, against: bool = False) -> Contender:
    return Contender(name, "mesh", (), (), DiffusersConfig(), against)


def test_a_prior_passes_only_if_every_figure_reaches_its_bound() -> None:
    good = assets(*[AssetScore(f"a {c} mug", 0.95, False, 60.0, 0.7, 1.0) for c in ("red", "blue")])
    row = contender("mesh")
    passed = verdict(row, [row], {"mesh": figures(good, 2, 32.0)}, {"mesh": good})
    assert str(passed) == "PASSED"
    assert [check.least for check in passed.checks] == [0.95, 0.93, 32.0]
    assert str(verdict(row, [row], {"mesh": figures(good, 2, 31.9)}, {"mesh": good})) == "NOT PASSED"
    pale = assets(AssetScore("a red mug", 0.94, False, 60.0, 0.7, 1.0))
    assert str(verdict(row, [row], {"mesh": figures(pale, 1, 40.0)}, {"mesh": pale})) == "NOT PASSED"
    janus = [*good, *assets(AssetScore("a pink mug", 1.0, True, 60.0, 0.7, 1.0))]
    refused = verdict(row, [row], {"mesh": figures(janus, 4, 40.0)}, {"mesh": janus})
    assert str(refused) == "NOT PASSED so far, 3 of 4 prompts"
    assert check_rows(refused)[1] == ["no second face", "66.7%", "93.0%", "not passed"]
    # Without an object that has a front, nothing is known about second faces.
    apples = assets(AssetScore("a red apple", 1.0, None, 60.0, 0.7, 1.0))
    assert str(verdict(row, [row], {"mesh": figures(apples, 1, 40.0)}, {"mesh": apples})) == "NOT PASSED"


def test_a_prior_is_compared_on_the_prompts_that_another_prior_knows_too() -> None:
    mine = assets(
        AssetScore("a red mug", 0.96, False, 9.0, 0.7, 1.0), AssetScore("a red owl", 1.0, False, 9.0, 0.7, 1.0)
    )
    theirs = assets(AssetScore("a red mug", 0.98, False, 9.0, 0.7, 1.0))
    rows = [contender("mesh"), contender("mesh with old", against=True)]
    of = {"mesh": figures(mine, 2, 40.0), "mesh with old": figures(theirs, 1, 35.0)}
    found = verdict(rows[0], rows, of, {"mesh": mine, "mesh with old": theirs})
    compared = [(check.name, check.value, check.least, check.passed) for check in found.checks[3:]]
    assert compared == [
        ("right, 1 prompts that both know", 0.96, 0.98, False),
        ("no second face, of these", 1.0, 1.0, True),
    ]


def test_the_table_by_kind_begins_with_the_weakest() -> None:
    scores = assets(
        AssetScore("a red mug", 1.0, False, 60.0, 0.7, 1.0),
        AssetScore("a blue owl", 0.5, False, 60.0, 0.6, 2.0, read_as="blue penguin"),
        AssetScore("a blue owl with red wings", 0.75, True, 70.0, 0.8, 3.0, part=0.25, read_as="red owl"),
        AssetScore("a red apple", 0.0, None, 20.0, 0.0, None, failed="there is no surface"),
    )
    assert kind_rows(scores) == [
        ["apple", "0.0%", "-", "-", "0.00", "-", "20", "a red apple failed"],
        ["owl", "62.5%", "50.0%", "25.0%", "0.70", "2.5", "65", "read as blue penguin, read as red owl"],
        ["mug", "100.0%", "100.0%", "-", "0.70", "1.0", "60", ""],
    ]


def test_a_prior_gets_the_prompts_of_the_kinds_that_it_knows(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    Vocabulary({"chair": "legs"}, ("red",), frozenset(["chair", "red"])).write(tmp_path / "old")
    new, old = contenders(["mesh"], "all", ["steps=2"], "", str(tmp_path / "old"), load_scorer())
    assert len({spec.category for spec in new.specs}) >= 16
    assert {spec.category for spec in old.specs} == {"chair"}
    assert set(old.specs) < set(new.specs)
    assert old.overrides == ("steps=2", f"prior.model={tmp_path / 'old'}")
    assert old.against
    assert not new.against


def test_assets_of_two_priors_are_not_mixed(tmp_path: Path) -> None:
    config = DiffusersConfig()
    assert noted(tmp_path, config) is None
    write_atomically(tmp_path / "prior.json", json.dumps({"digest": config.digest(), "decoder": 33.0}).encode())
    assert noted(tmp_path, config) == PriorRecord(config.digest(), 33.0)
    write_atomically(tmp_path / "prior.json", json.dumps({"digest": "of other weights", "decoder": 33.0}).encode())
    with pytest.raises(RunError, match="assets of other weights than the prior's: give another folder with --out"):
        noted(tmp_path, config)


def test_the_decoder_of_the_shipped_prior_is_as_good_as_its_card_says() -> None:
    """Its card was measured on other objects of the same world."""
    card = (assets_dir() / "toybox" / "CARD.md").read_text()
    said = float(card.split("| PSNR of the autoencoder |")[1].split("dB")[0])
    config = DiffusersConfig()
    vocabulary = config.vocabulary()
    assert vocabulary is not None
    specs = choose_prompts("8", list(vocabulary.kinds))
    assert decoder_psnr(config.load(), specs) == pytest.approx(said, abs=1.5)


@pytest.mark.slow
def test_processes_share_a_benchmark_and_a_stopped_one_continues(tmp_path: Path) -> None:
    scorer = load_scorer()
    (row,) = contenders(["toybox"], "2", TINY, "", "", scorer)
    told: list[str] = []

    def make() -> None:
        make_missing(
            row, tmp_path, scorer, Machine(), lambda *_: None, lambda _, asset: told.append(asset.score.prompt)
        )

    first, second = (run_of(spec, row.preset, row.overrides, tmp_path / "toybox")[0] for spec in row.specs)
    with first.locked():  # as another process does
        make()
    assert told == ["a pink chair"]
    assert results_of([row], tmp_path, scorer).figures["toybox"].of_all.assets == 1
    make()
    assert told == ["a pink chair", "a blue mug"]
    before = [(run.folder / "score.json").read_bytes() for run in (first, second)]
    make()  # nothing is left
    assert len(told) == 2
    for run in (first, second):
        (run.folder / "score.json").unlink()  # killed between the run's end and the score
    results = results_of([row], tmp_path, scorer)
    assert [(run.folder / "score.json").read_bytes() for run in (first, second)] == before
    assert [asset.score.prompt for asset in results.assets["toybox"]] == ["a blue mug", "a pink chair"]


@pytest.mark.slow
def test_the_command_prints_and_writes_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for setting in TINY for part in ("--set", setting)]
    command = ["bench", "toybox", "toybox", "--prompts", "1", *settings, "--out", str(tmp_path)]
    for options, expected in (["--so-far"], "nothing is done yet"), ([], "NOT PASSED"), (["--so-far"], "NOT PASSED"):
        with pytest.raises(SystemExit) as end:
            main([*command, *options])
        assert end.value.code == 0
        assert expected in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["summary"]) == ["truth", "toybox"]
    assert results["summary"]["truth"]["of_all"]["recognised"] == 1
    assert results["summary"]["toybox"]["record"]["digest"] == DiffusersConfig().digest()
    assert results["verdicts"][0]["outcome"] == "NOT PASSED"
    assert "| mug |" in (tmp_path / "results.md").read_text()
    for name in ("toybox.png", "toybox-gallery.webp", "truth.png", "side_by_side.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > PIXELS
