"""Whose a run is, who sees it, and what visitors may set."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sds3d.app.limits import pixels, refuse_extremes
from sds3d.app.studio import MAX_EACH, Studio
from sds3d.app.tab_library import matching
from sds3d.app.visitors import Access, access_of, visiting
from sds3d.config import ConfigError, build
from sds3d.files import RunError
from sds3d.run.config import RunConfig, make_config, new_run
from sds3d.run.folder import Run


@pytest.fixture
def shop(shop: Studio) -> Studio:
    """A studio with three users, of whom one owns the machine. No worker starts."""
    return replace(shop, users=frozenset({"ada", "bob", "own"}), owner="own")


def start(shop: Studio, login: str, seed: int = 0) -> Run:
    with visiting(login):
        return shop.start(shop.config("a red mug", "toybox", {"seed": seed}))


def seen(shop: Studio, login: str) -> set[str]:
    with visiting(login):
        assert {e.name for e in matching(shop, "", "All")} == {run.folder.name for run in shop.runs()}
        return {run.folder.name for run in shop.runs()}


def test_runs_are_seen_and_changed_by_their_owner_and_by_the_machines(shop: Studio):
    by_ada, by_machine = start(shop, "ada"), new_run(shop.root, make_config("a blue chair"))
    assert access_of(by_ada) == Access("ada")
    assert seen(shop, "ada") == {by_ada.folder.name}
    assert seen(shop, "bob") == set()
    assert seen(shop, "own") == {by_ada.folder.name, by_machine.folder.name}
    with visiting("bob"), pytest.raises(RunError, match="no run of that name"):
        shop.open(by_ada.folder.name)
    with visiting("own"):
        assert shop.open_own(by_ada.folder.name) == by_ada


def test_a_shared_run_is_seen_by_all_and_changed_by_none_of_them(shop: Studio):
    run = start(shop, "ada")
    with visiting("ada"):
        shop.share(run, True)
    assert seen(shop, "bob") == {run.folder.name}
    with visiting("bob"):
        assert shop.open(run.folder.name) == run
        with pytest.raises(RunError, match="belongs to somebody else"):
            shop.open_own(run.folder.name)
        (card,) = matching(shop, "", "All")
        assert not card.own
    with visiting("ada"):
        shop.share(run, False)
    assert seen(shop, "bob") == set()


def test_equal_settings_of_two_users_are_two_runs(shop: Studio):
    ada, bob = start(shop, "ada"), start(shop, "bob")
    assert ada.folder != bob.folder
    assert start(shop, "ada") == ada
    assert start(shop, "bob") == bob
    # A finished run that is shared stands for both; one that still waits does not.
    other = start(shop, "ada", seed=1)
    with visiting("ada"):
        shop.share(other, True)
    assert start(shop, "bob", seed=1) != other
    third = start(shop, "ada", seed=2)
    with visiting("ada"):
        shop.share(third, True)
    third.update(status="done")
    assert start(shop, "bob", seed=2) == third
    assert access_of(third) == Access("ada", shared=True)


def test_a_damaged_file_of_access_gives_nothing_away(shop: Studio):
    run = start(shop, "ada")
    for text in ("{", "[]", '{"owner": 3}', '{"shared": "yes"}', '{"other": 1}'):
        (run.folder / "access.json").write_text(text)
        assert seen(shop, "bob") == seen(shop, "ada") == set()


def test_one_visitor_does_not_fill_the_queue(shop: Studio):
    for seed in range(MAX_EACH):
        start(shop, "ada", seed)
    with pytest.raises(RunError, match=f"{MAX_EACH} of your runs"):
        start(shop, "ada", MAX_EACH)
    start(shop, "bob")
    for seed in range(MAX_EACH + 1):
        start(shop, "own", 100 + seed)


EXTREMES = (
    ("particles", 5), ("steps", 1300), ("cameras.views", 17), ("cameras.size", 512), ("representation.resolution", 200),
    ("export.resolution", 257), ("export.texture_size", 8192), ("export.frames", 241), ("preview_every", 0.01),
    ("checkpoint_every", 1),
)  # fmt: skip


@pytest.mark.parametrize(("key", "value"), EXTREMES)
def test_what_costs_much_is_for_the_owner_of_the_machine(key: str, value: float, shop: Studio):
    layer = {key.split(".", maxsplit=1)[0]: {key.split(".")[1]: value} if "." in key else value}
    with visiting("ada"), pytest.raises(ConfigError, match=f"^{key} = .*visitors of this studio may set"):
        shop.config("a red mug", "toybox", layer)
    with visiting("own"):
        shop.config("a red mug", "toybox", layer)


@pytest.mark.parametrize("faces", [4, 5000, 100_000, 0])
def test_visitors_may_have_as_few_faces_as_they_like(faces: int, shop: Studio):
    with visiting("ada"):
        assert shop.config("a red mug", "mesh", {"export": {"faces": faces}}).export.faces == faces


def test_numbers_that_cost_nothing_have_no_limit(shop: Studio):
    layer = {"cameras": {"coarse_size": 32}, "optimizer": {"warmup": 100}, "seed": 99}
    with visiting("ada"):
        config = shop.config("a red mug", "toybox", layer)
    assert (config.cameras.coarse_size, config.optimizer.warmup, config.seed) == (32, 100, 99)


def test_many_large_settings_together_cost_too_much(shop: Studio):
    one_by_one = ({"steps": 1200}, {"cameras": {"views": 16}}, {"cameras": {"size": 128}}, {"particles": 4})
    with visiting("ada"):
        for layer in one_by_one:
            shop.config("a red mug", "toybox", layer)
        with pytest.raises(ConfigError, match="render 64 times the pixels"):
            shop.config("a red mug", "toybox", *one_by_one[:3])


@pytest.mark.parametrize("name", ["size", "views"])
def test_a_short_phase_is_no_way_around_the_limits(name: str, shop: Studio):
    layer = {"cameras": {"phases": [{"at": 0.999, name: {"size": 2048, "views": 200}[name]}]}}
    with visiting("ada"), pytest.raises(ConfigError, match=rf"^cameras\.{name} = .*visitors of this studio may set"):
        shop.config("a red mug", "toybox", layer)
    with visiting("ada"):
        assert shop.config("a red mug", "toybox", {"cameras": {"phases": [{"at": 0.5, "size": 128}]}}).cameras.phases


def test_pixels_are_counted_in_all_phases():
    cameras = {"size": 64, "views": 8, "phases": [{"at": 0.25, "size": 128, "views": 4}]}
    config = build(RunConfig, {"prompt": "a ball", "steps": 100, "particles": 2, "cameras": cameras})
    assert pixels(config) == 2 * (25 * 8 * 64**2 + 75 * 4 * 128**2)


def test_every_preset_is_within_the_limits_of_visitors(shop: Studio):
    for preset in shop.presets():
        config = shop.own_config("a red mug", preset)
        refuse_extremes(config, config)


@pytest.mark.parametrize(
    "layer",
    [
        {"stages": {"1": {"representation": {"geometry": {"resolution": 240}}}}},
        {"representation": {"geometry": {"resolution": 240}}},
        {"representation": {"name": "hash_nerf", "samples": 1000}},
        {"representation": {"appearance": {"name": "hash_grid", "log2_entries": 24}}},
        {"stages": {"0": {"steps": 9000}}},
        {"stages": {"0": {"representation": {"sketch": "/etc/passwd"}}}},
        {"stages": [{"representation": "gaussians"}]},
        {"teachers": [{"prior": {"model": "sd21"}, "guidance": "sds"}]},
        {"guidance": {"name": "vsd", "variational": {"model": "sd21"}}},
    ],
)
def test_the_limits_hold_in_stages(layer: dict[str, object], shop: Studio):
    with visiting("bob"), pytest.raises(ConfigError, match=r"visitors of this studio may|cannot be set in a studio"):
        shop.config("a red mug", "mesh", layer)
    with visiting("bob"):
        assert shop.config("a red mug", "mesh", {"representation": "gaussians"}).stages == ()
        assert shop.config("a red mug", "mesh", {"stages": {"1": {"steps": 60}}}).stages
