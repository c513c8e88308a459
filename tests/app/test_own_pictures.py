"""Pictures that a visitor brings: their way from the upload to the run, and back into the form."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.app import cutting, estimates, own_pictures, recipe_reader, result_panel, uploads
from sds3d.app.own_pictures import OwnPicturesPanel
from sds3d.app.studio import Studio
from sds3d.app.visitors import visiting
from sds3d.cameras import look_at
from sds3d.config import ConfigError, load_yaml
from sds3d.files import RunError
from sds3d.run.config import make_config, new_run, read_config
from sds3d.run.folder import Run
from sds3d.run.inputs import check_inputs
from tests.app.sending import send, square


@pytest.fixture
def panel(shop: Studio) -> OwnPicturesPanel:
    with gr.Blocks():
        return own_pictures.lay_out(shop)


def held(panel: OwnPicturesPanel, updates: dict[Any, Any]) -> str:
    return updates[panel.held]


def said(panel: OwnPicturesPanel, updates: dict[Any, Any]) -> str:
    return updates[panel.said].value


def started(panel: OwnPicturesPanel, text: str, *settings: dict[str, Any]) -> Run:
    """Start the run of a form with these pictures."""
    config = panel.studio.config("a red mug", "toybox", *settings)
    with panel.references(text) as references:
        return panel.studio.start(config.model_copy(update={"reference": references}))


def test_a_picture_and_its_corrected_mask_are_in_the_run(panel: OwnPicturesPanel, shop: Studio):
    with visiting("ada"):
        first = panel.add("", [send(shop)])
        assert "The object is 20% of the picture" in first[panel.shown].value
        assert first[panel.tolerance].visible
        text = held(panel, panel.edit(held(panel, first), lambda _: {"azimuth": 90.0, "elevation": -5.0}))
        stroke = {"keep": False, "width": 0.2, "points": [[0.3, 0.5], [0.7, 0.5]]}
        text = held(panel, panel.edit(text, lambda picture: {"strokes": [*picture["strokes"], stroke]}))
        run = started(panel, text)
        (reference,) = read_config(run).reference
        assert (reference.azimuth, reference.elevation) == (90, -5)
        assert all(Path(name).is_relative_to(run.folder) for name in (reference.image, reference.mask))
        np.testing.assert_array_equal(np.asarray(Image.open(reference.image)), np.asarray(square()))
        mask = np.asarray(Image.open(reference.mask))
        assert mask.shape == (80, 100)
        assert mask[:20].max() == mask[31:49].max() == 0
        assert mask[22:29, 32:68].min() == mask[52:58, 32:68].min() == 255
        assert started(panel, text) == run  # the same form, the same run

        # The form of the run has the picture with its mask, and starts the same run.
        again = panel.open(run.folder.name)
        assert json.loads(held(panel, again))["pictures"][0]["azimuth"] == 90
        assert "The mask is that of the run" in again[panel.shown].value
        assert not again[panel.tolerance].visible
        assert started(panel, held(panel, again)) == run
        undone = {"keep": True, "width": 0.2, "points": [[0.3, 0.5], [0.7, 0.5]]}
        other = started(panel, held(panel, panel.edit(held(panel, again), lambda _: {"strokes": [undone]})))
        assert other != run
        (after,) = read_config(other).reference
        assert Path(after.image).read_bytes() == Path(reference.image).read_bytes()
        assert np.asarray(Image.open(after.mask))[22:58, 32:68].min() == 255


def test_what_the_form_does_not_show_of_a_runs_picture_stays(panel: OwnPicturesPanel, shop: Studio, tmp_path: Path):
    square().save(tmp_path / "a.png")
    given = own_pictures.ReferenceConfig.model_validate(
        {"image": str(tmp_path / "a.png"), "fovy": 30, "color_weight": 7}
    )
    with visiting("ada"):
        run = shop.start(shop.config("a red mug", "toybox").model_copy(update={"reference": (given,)}))
        (known,) = read_config(run).reference
        text = held(panel, panel.open(run.folder.name))
        with panel.references(text) as references:
            assert references == (known,)  # the camera is still to be found
        turned = held(panel, panel.edit(text, lambda _: {"azimuth": 40}))
        with panel.references(turned) as references:
            assert references == (known.model_copy(update={"azimuth": 40, "elevation": 15}),)
        dot = [{"keep": False, "width": 0.1, "points": [[0.5, 0.5]]}]
        with panel.references(held(panel, panel.edit(text, lambda _: {"strokes": dot}))) as references:
            (corrected,) = references
            assert corrected.model_copy(update={"mask": ""}) == known
            assert np.asarray(Image.open(corrected.mask))[40, 50] == 0


def test_a_picture_with_a_pose_can_be_turned(panel: OwnPicturesPanel, shop: Studio, tmp_path: Path):
    square().save(tmp_path / "a.png")
    azimuth, elevation = np.radians([130, 20])
    place = 2 * np.array(
        [[np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]]
    )
    camera = look_at(*(torch.from_numpy(each) for each in (place, 0 * place, np.array([[0.0, 1, 0]]))))
    given = own_pictures.ReferenceConfig.model_validate(
        {"image": str(tmp_path / "a.png"), "fovy": 30, "pose": camera[0].tolist(), "color_weight": 7}
    )
    with visiting("ada"):
        run = shop.start(shop.config("a red mug", "toybox").model_copy(update={"reference": (given,)}))
        (known,) = read_config(run).reference
        opened = panel.open(run.folder.name)
        assert (opened[panel.azimuth].value, opened[panel.elevation].value) == (130, 20)
        with panel.references(held(panel, opened)) as references:
            assert references == (known,)
        text = held(panel, panel.edit(held(panel, opened), lambda _: {"azimuth": -90.0}))
        (after,) = read_config(started(panel, text)).reference
        assert Path(after.image).read_bytes() == Path(known.image).read_bytes()
        turned = {"azimuth": -90, "elevation": 20, "pose": None, "image": after.image}
        assert after == known.model_copy(update=turned)
        Path(known.image).unlink()
        gone = panel.open(run.folder.name)
        assert held(panel, gone) == ""
        assert "Picture 1 was taken out: a.png: there is no such file" in said(panel, gone)


def test_pictures_that_are_gone_leave_the_others(panel: OwnPicturesPanel, shop: Studio):
    with visiting("ada"):
        before = cutting.read_pictures(held(panel, panel.add("", [send(shop, name=f"{i}.png") for i in range(4)])))
        for i, chosen in ((1, 2), (0, 1)):  # the one before the chosen, then others
            before = before.model_copy(update={"chosen": chosen})
            uploads.remove(uploads.find(shop, before.pictures[i].file))
            shown = panel.show(before)
            after = cutting.read_pictures(held(panel, shown))
            assert after.pictures == (*before.pictures[:i], *before.pictures[i + 1 :])
            assert after.shown == before.shown
            assert f"Picture {i + 1} was taken out: the file is no longer here: choose it again" in said(panel, shown)
            before = after
        uploads.remove(uploads.find(shop, before.pictures[1].file))
        last = panel.show(before.model_copy(update={"chosen": 1}))
        assert cutting.read_pictures(held(panel, last)) == cutting.OwnPictures(pictures=before.pictures[:1])
        uploads.remove(uploads.find(shop, before.pictures[0].file))
        none = panel.edit(held(panel, last), lambda _: {"azimuth": 10})
        assert held(panel, none) == ""
        assert "Picture 1 was taken out" in said(panel, none)


def test_of_several_pictures_each_that_is_refused_is_named(panel: OwnPicturesPanel, shop: Studio):
    with visiting("ada"):
        tokens = [send(shop, name="a.png"), send(shop, name="b.png"), send(shop, name="c.png")]
        for token, name in zip(tokens[:2], "ab", strict=True):
            uploads.find(shop, token).write_bytes(f"no picture {name}".encode())
        added = panel.add("", tokens, "d.gif: it cannot be read\ne.gif: it cannot be read")
        assert len(cutting.read_pictures(held(panel, added)).pictures) == 1
        for name in ("A.png: it is no PNG", "B.png: it is no PNG", "d.gif: it cannot", "e.gif: it cannot"):
            assert name in said(panel, added)
        assert said(panel, added).count("<br>") == 3


def test_the_zip_of_a_run_has_its_pictures(
    panel: OwnPicturesPanel, shop: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Studio, "presets", lambda self, **_: {"toybox": ""})  # quicker than all of them
    with visiting("ada"):
        text = held(panel, panel.add("", [send(shop)]))
        text = held(panel, panel.edit(text, lambda _: {"azimuth": 90.0, "elevation": -5.0}))
        run = started(panel, text)
        run.update(status="cancelled")
        run.exports.mkdir(exist_ok=True)
        packed = result_panel.pack_run(run, shop)
        alone = recipe_reader.of_text(shop, run.config_path.read_text(), "toybox")
        brought, _ = recipe_reader.of_file(shop, packed, "toybox", uploads.new_folder(shop.root, "ada"))
        again = panel.bring(brought.pictures)
        assert "cannot show" not in said(panel, again)
        with panel.references(held(panel, panel.show(cutting.OwnPictures()))) as none:
            assert none == ()
        made = started(panel, held(panel, again))
    assert (len(alone.pictures), alone.missing) == (0, 1)
    assert (len(brought.pictures), brought.missing, "reference" in brought.recipe.edits) == (1, 0, False)
    (first,), (second,) = read_config(run).reference, read_config(made).reference
    assert (first.azimuth, first.elevation) == (second.azimuth, second.elevation) == (90, -5)
    for one, two in ((first.image, second.image), (first.mask, second.mask)):
        np.testing.assert_allclose(np.asarray(Image.open(one), float), np.asarray(Image.open(two), float), atol=1)
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "unpacked")
    (tree,) = load_yaml(tmp_path / "unpacked" / "settings.yaml")["reference"]
    for key in ("image", "mask"):
        (copy,) = run.folder.rglob(Path(tree[key]).name)
        assert (tmp_path / "unpacked" / tree[key]).read_bytes() == copy.read_bytes()
    monkeypatch.chdir(tmp_path)
    config = make_config("a red mug", "unpacked/settings.yaml")
    check_inputs(config)
    assert new_run(tmp_path / "again", config).folder.name == run.folder.name
    monkeypatch.chdir(tmp_path / "unpacked")
    recipe = Path("recipe.txt").read_text()
    assert str(shop.root) not in recipe
    command = shlex.split(recipe.splitlines()[1])
    check_inputs(config := make_config(command[2], command[4], command[5:]))
    assert new_run(tmp_path / "again", config).folder.name == run.folder.name


def test_pictures_are_their_visitors_alone(panel: OwnPicturesPanel, shop: Studio):
    with visiting("ada"):
        text = held(panel, panel.add("", [send(shop)]))
        run = started(panel, text)
        shop.share(run, True)
    with visiting("bob"):
        with pytest.raises(ConfigError, match="no longer here"), panel.references(text):
            pass
        opened = panel.open(run.folder.name)
        assert held(panel, opened) == ""
        assert "pictures of its owner" in said(panel, opened)
        stolen = json.dumps({"pictures": [{"file": f"run:{run.folder.name}:0"}]})
        with pytest.raises(RunError, match="pictures of its owner"), panel.references(stolen):
            pass
        for name in ("run:../../etc:0", "run::0", "../../x", f"run:{run.folder.name}:7"):
            with pytest.raises((ConfigError, RunError)), panel.references(json.dumps({"pictures": [{"file": name}]})):
                pass
        with pytest.raises(ConfigError, match="reference cannot be set"):
            shop.config("a red mug", "toybox", {"reference": [{"image": "/etc/x.png", "azimuth": 0, "elevation": 0}]})


def test_several_pictures_are_chosen_and_removed(panel: OwnPicturesPanel, shop: Studio):
    with visiting("ada"):
        tokens = [send(shop, name=f"{i}.png") for i in range(cutting.MOST + 1)]
        added = panel.add("", tokens)
        assert "8 pictures are the limit: 1 of 9 left out, remove one first" in said(panel, added)
        value = cutting.read_pictures(held(panel, added))
        assert (len(value.pictures), value.chosen) == (8, 7)
        assert added[panel.listed].value.count("data-index") == 8
        one = panel.show(value.without_shown())
        assert cutting.read_pictures(held(panel, one)).chosen == 6
        none = panel.show(cutting.OwnPictures())
        assert (held(panel, none), none[panel.shown].visible, none[panel.tools].visible) == ("", False, False)


def test_what_is_no_picture_is_refused_and_leaves_nothing(panel: OwnPicturesPanel, shop: Studio):
    with visiting("ada"):
        good = held(panel, panel.add("", [send(shop)]))
        token = send(shop, "page.png", b"<html><script>alert(1)</script></html>")
        path = uploads.find(shop, token)
        refused = panel.add(good, [token])
        assert held(panel, refused) == good
        assert "Page.png: it is no PNG, JPEG or WebP picture" in said(panel, refused)
        assert not path.exists()
        for change in ({"azimuth": 1e9}, {"tolerance": -1}, {"strokes": [{"keep": True}]}):
            assert held(panel, panel.edit(good, lambda _, change=change: change)) == good
        gone = panel.edit(good, lambda _: {"strokes": [{"keep": False, "width": 1, "points": [[0.5, 0.5]]}]})
        with pytest.raises(ConfigError, match="nothing of a picture is left"), panel.references(held(panel, gone)):
            pass
    assert "<script>" not in said(panel, refused)


def test_a_mask_that_nothing_makes_is_the_persons(panel: OwnPicturesPanel, shop: Studio, monkeypatch):
    monkeypatch.setattr("sds3d.formats.masks.find_spec", lambda name: None)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    with visiting("ada"):
        added = panel.add("", [send(shop, picture=noise)])
        assert "could not be told apart" in said(panel, added)
        assert "pip install" not in said(panel, added)  # not the visitor's to do
        dot = [{"keep": False, "width": 0.1, "points": [[0.5, 0.5]]}]
        assert said(panel, panel.edit(held(panel, added), lambda _: {"strokes": dot})) == ""


def test_pictures_take_time(shop: Studio):
    config = shop.config("a red mug", "toybox")
    reference = own_pictures.ReferenceConfig(image="a.png", azimuth=0, elevation=0)
    costs = [
        estimates.stated_step("toybox", config.model_copy(update={"reference": (reference,) * count}))
        for count in (0, 1, 4)
    ]
    assert costs[0] < costs[1] < costs[2]
    assert costs[2] - costs[0] == pytest.approx(4 * (costs[1] - costs[0]))
