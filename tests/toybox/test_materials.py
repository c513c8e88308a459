"""Materials of the toy world: words, truth, and renders that agree with the truth."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import orbit
from sds3d.rendering.panoramas import panorama_directions
from sds3d.rendering.shading import prefilter, srgb_to_linear
from sds3d.toybox import captions
from sds3d.toybox.material_views import lamps, lit_object, material_rows, render_materials, save_lit_objects
from sds3d.toybox.materials import MATERIALS, Look, build_look, caption, parse, prompt, sample
from sds3d.toybox.objects import build, build_with_parts
from sds3d.toybox.world import COLORS, Spec

WHITE_LIGHT = prefilter(torch.ones(16, 32, 3))
TWO = Look(Spec("mug", "red", "blue"), "rubber", "shiny")


@pytest.mark.parametrize(
    ("text", "look"),
    [
        ("a shiny metal teapot", Look(Spec("teapot", "white"), "shiny")),
        ("a red rubber mug", Look(Spec("mug", "red"), "rubber")),
        ("a green mirror rocket with plastic fins", Look(Spec("rocket", "green"), "mirror", "plastic")),
        (
            "a blue chair made of metal with red rubber legs",
            Look(Spec("chair", "blue", "red"), "brushed", "rubber"),
        ),
        ("a photo of a chrome teapot", Look(Spec("teapot", "white"), "mirror")),
        ("a red mug", None),
        ("a red mug with a blue handle", None),
    ],
)
def test_prompts_are_read(text: str, look: Look | None) -> None:
    assert parse(text) == look


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red mug with a shiny metal handle", "name the object's own before it"),
        ("a red and blue rubber mug", "name the object's own before it"),
        ("a chrome rubber mug", "several materials of one part: keep one"),
        ("a red rubber mug with a metal plastic handle", "several materials of one part: keep one"),
        ("a rubber mug", "does not name the object's colour"),
        ("a red blue rubber mug", "several colours of one part: keep one"),
        ("a red rubber mug with a green handle that is blue", "several colours of one part: keep one"),
        ("a shiny metal dragon", "does not name one toy object, see sds3d toybox words"),
    ],
)
def test_prompts_with_materials_that_cannot_be_made_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        material_rows(text, [0.0], 0, 16)
    assert str(error.value).startswith(repr(text))
    example = str(error.value).split("write for example ")[1].strip("'")
    assert parse(example) == Look(Spec("mug", "red", "blue"), "rubber", "plastic")


def test_every_caption_is_read_as_what_it_was_made_from() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        look = sample(rng)
        assert parse(prompt(look)) == look, prompt(look)
        text = caption(look, rng)
        assert parse(text) == look, text


def test_no_word_of_a_material_is_a_word_of_the_plain_world() -> None:
    words = {word for material in MATERIALS.values() for text in material.words for word in text.split()}
    assert not words & set(captions.VOCABULARY)


def test_the_shape_and_the_colours_are_those_of_the_plain_world() -> None:
    for category in ("mug", "car", "robot", "clock"):
        spec = Spec(category, "green", "red")
        rng, other = np.random.default_rng(5), np.random.default_rng(5)
        plain, made = build(spec, rng), build_look(Look(spec, "mirror", "rubber"), other)
        for name in ("vertices", "faces", "normals", "colors"):
            np.testing.assert_array_equal(getattr(made, name), getattr(plain, name))


def test_parts_have_the_material_that_is_said() -> None:
    mesh, parts = build_with_parts(TWO.spec, np.random.default_rng(1))
    assert set(parts.tolist()) == {0, 1, 2}  # the inside is white
    assert mesh.colors is not None
    red, blue = mesh.colors[parts == 1].mean(0), mesh.colors[parts == 2].mean(0)
    assert red.argmax() == 0
    assert blue.argmax() == 2
    made = build_look(TWO, np.random.default_rng(1))
    assert made.materials is not None
    np.testing.assert_allclose(made.materials[parts == 1][:, 0], 0.0)
    np.testing.assert_allclose(made.materials[parts == 2][:, 0], 1.0)
    np.testing.assert_allclose(made.materials[parts == 1][:, 1], 0.9, atol=0.05)
    np.testing.assert_allclose(made.materials[parts == 2][:, 1], 0.25, atol=0.05)
    # Of one colour, the part is still known; windows and tyres stay as they are.
    spec = Spec("car", "red")
    roof = build_look(Look(spec, "mirror", "rubber"), np.random.default_rng(1)).materials
    parts = build_with_parts(spec, np.random.default_rng(1))[1]
    assert roof is not None
    assert set(parts.tolist()) == {0, 1, 2}
    assert set(roof[parts == 2][:, 0].tolist()) == {0.0}
    assert set(roof[parts == 1][:, 0].tolist()) == {1.0}
    assert roof[parts == 0][:, 1].mean() == pytest.approx(MATERIALS["plastic"].roughness, abs=0.05)


def test_maps_are_the_truth_and_in_white_light_colours_are_those_of_the_metal() -> None:
    mesh = build_look(replace(TWO, material="mirror", accent_material=None), np.random.default_rng(2))
    views = render_materials(mesh, orbit([20.0, 200.0], size=48), WHITE_LIGHT, (0.0, 0.0, 0.0))
    solid = views.alpha[..., 0] == 1
    assert mesh.materials is not None
    solid &= (views.metallic[..., 0] < 1e-5) | (views.metallic[..., 0] > 1 - 1e-5)  # not on an edge between parts
    metal = views.metallic[solid][:, 0] > 0.5
    assert metal.mean() > 0.5
    rough = {float(value) for value in np.unique(np.round(mesh.materials[:, 1], 3))}
    assert {float(value) for value in np.unique(np.round(views.roughness[solid], 3))} == rough
    lit, albedo = (srgb_to_linear(torch.from_numpy(values[solid])) for values in (views.pictures, views.albedo))
    # A metal in white light shows its colour, and whiter where it is seen at grazing angles.
    assert float((lit - albedo)[metal].min()) > -0.02
    assert float((lit - albedo)[metal].median()) < 0.02
    reds = views.albedo[solid][views.albedo[solid][:, 0] > 0.5]
    np.testing.assert_allclose(np.median(reds, axis=0), COLORS["red"], atol=0.08)
    assert views.albedo[views.alpha[..., 0] == 0].max() == 0
    np.testing.assert_allclose(np.linalg.norm(views.normal[solid], axis=-1), 1.0, atol=1e-3)


def test_a_mirror_shows_what_is_around_it_and_rubber_does_not() -> None:
    slope = torch.tensor([0.0, 0.9, 0.0])  # bright above, dark below
    light = prefilter((1 + panorama_directions(32) @ slope)[..., None].expand(-1, -1, 3).contiguous() / 2)
    contrast = {}
    for name in ("mirror", "rubber"):
        mesh = build_look(Look(Spec("balloon", "white"), name), np.random.default_rng(0))
        views = render_materials(mesh, orbit([0.0], elevation=0.0, size=64), light)
        solid = views.alpha[..., 0] == 1
        contrast[name] = float(views.pictures[solid].std())
    assert contrast["mirror"] > 1.2 * contrast["rubber"]


def test_objects_depend_on_their_seed_alone_and_lights_differ() -> None:
    one, again, other = (lit_object(TWO, np.random.default_rng([3, i]), size=24) for i in (0, 0, 1))
    np.testing.assert_array_equal(one.views.pictures, again.views.pictures)
    assert one.light == again.light != other.light
    assert not torch.equal(lamps(one.light).diffuse, lamps(other.light).diffuse)


def test_a_set_and_a_sheet(tmp_path: Path) -> None:
    assert save_lit_objects(tmp_path, 2, seed=4, size=16) == 8
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    look = parse(lines[0]["prompt"])
    assert look is not None
    assert (look.material, look.spec.category) == (lines[0]["material"], lines[0]["category"])
    orm = np.asarray(Image.open(tmp_path / "000000_0_orm.png"))
    albedo = np.asarray(Image.open(tmp_path / "000000_0_albedo.png"))
    assert orm.shape == albedo.shape == (16, 16, 3)
    assert albedo[orm[..., 0] == 0].max() == 0
    rows = material_rows("a shiny metal teapot", [0.0, 90.0], 0, 16)
    assert rows is not None
    assert [heading for heading, _ in rows] == ["lit", "albedo", "roughness", "metallic"]
    assert all(pictures.shape == (2, 16, 16, 3) for _, pictures in rows)
    assert material_rows("a red mug", [0.0], 0, 16) is None


@pytest.mark.slow  # processes start
def test_a_set_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    for workers in (1, 2):
        assert save_lit_objects(tmp_path / str(workers), 3, seed=4, workers=workers, size=16) == 12
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("1", "2"))
    assert len(one) == 1 + 12 * 4
    assert one == two
