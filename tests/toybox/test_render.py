"""The toybox's pictures: determinism, cameras, light and background, files on disk."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from sds3d.cameras import orbit
from sds3d.toybox.captions import WORLD
from sds3d.toybox.render import (
    FOVY,
    iterate_objects,
    render_object,
    render_prompt,
    sample_background,
    sample_light,
    sample_views,
    save_dataset,
    stack,
)
from sds3d.toybox.world import Spec

RED_MUG = Spec("mug", "red")


def only_red_mugs(_: np.random.Generator) -> Spec:
    return RED_MUG


class TestDataset:
    def test_does_not_depend_on_the_number_of_workers(self):
        one = stack(iterate_objects(18, seed=3, workers=1, size=16), 18)
        two = stack(iterate_objects(18, seed=3, workers=2, size=16), 18)
        assert one.specs == two.specs
        for name in ("pictures", "azimuth", "elevation", "distance"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name

    def test_seed_decides_and_shorter_sets_are_prefixes(self):
        long = stack(iterate_objects(6, seed=1, size=16), 6)
        short = stack(iterate_objects(3, seed=1, size=16), 3)
        assert np.array_equal(long.pictures[:3], short.pictures)
        (third,) = iterate_objects(1, seed=1, size=16, start=2)
        assert np.array_equal(third.pictures, long.pictures[2])
        assert not np.array_equal(stack(iterate_objects(3, seed=2, size=16), 3).pictures, short.pictures)

    def test_shapes_types_and_progress(self):
        calls = []
        data = stack(iterate_objects(3, size=16, sample=only_red_mugs), 3, progress=lambda *done: calls.append(done))
        assert data.pictures.shape == (3, 4, 16, 16, 3)
        assert data.pictures.dtype == np.uint8
        assert data.azimuth.shape == (3, 4)
        assert data.azimuth.dtype == data.elevation.dtype == data.distance.dtype == np.float32
        assert data.specs == [RED_MUG] * 3
        assert calls == [(1, 3), (2, 3), (3, 3)]

    def test_workers_must_be_positive(self):
        with pytest.raises(ValueError, match="workers must be 1 or more"):
            list(iterate_objects(1, workers=0))

    def test_background_is_constant_and_the_object_inside_the_frame(self):
        """All border pixels of the four views have the background's colour: nothing is cut off."""
        for views in iterate_objects(24, seed=5):
            expected = (views.background * 255 + 0.5).astype(np.uint8)
            assert (views.pictures[:, [0, -1]] == expected).all()
            assert (views.pictures[:, :, [0, -1]] == expected).all()
            covered = (views.pictures != expected).any(-1).mean((1, 2))
            assert covered.min() > 0.02

    def test_view_i_looks_from_azimuth_i(self):
        """The tail lights, the only red of a yellow car, are largest in the view recorded as nearest to the back."""
        for seed in range(10):
            views = render_object(Spec("car", "yellow"), np.random.default_rng(seed))
            np.testing.assert_allclose((views.azimuth - views.azimuth[0]) % 360, [0, 90, 180, 270], atol=1e-3)
            pictures = views.pictures.astype(int)
            red = (pictures[..., 0] > 120) & (pictures[..., 1] < 70) & (pictures[..., 2] < 70)
            assert red.sum((1, 2)).argmax() == np.abs(views.azimuth - 180).argmin()


class TestDistributions:
    def test_cameras(self):
        rng = np.random.default_rng(0)
        cameras = [sample_views(rng) for _ in range(2000)]
        azimuth = torch.stack([c.azimuth for c in cameras])
        elevation = torch.stack([c.elevation for c in cameras])
        distance = torch.stack([c.distance for c in cameras])
        assert bool((elevation == elevation[:, :1]).all())
        assert bool((distance == distance[:, :1]).all())
        quarter = (azimuth[:, 0] // 90).long().bincount(minlength=4)
        assert quarter.min() > 430  # 500 +- 3.6 standard deviations of 19
        assert elevation.min() >= -3
        assert elevation.max() <= 80
        overhead = (elevation[:, 0] > 38).float().mean()
        assert 0.03 < overhead < 0.07
        assert 2.1 * 0.96 <= distance.min() < 2.04
        assert 2.16 < distance.max() <= 2.1 * 1.04

    def test_backgrounds(self):
        rng = np.random.default_rng(0)
        colors = np.stack([sample_background(rng) for _ in range(500)])
        assert colors.min() >= 0.29
        assert colors.max() <= 1
        assert np.ptp(colors, axis=1).max() <= 0.1201
        assert colors.mean() == pytest.approx(0.675, abs=0.03)

    def test_lights(self):
        """Half of the lights are fixed in the world, half move with the camera. Their factors never overexpose."""
        rng = np.random.default_rng(0)
        cameras = orbit([0.0, 90.0, 180.0, 270.0], 20.0)
        toward = (cameras.position() / cameras.distance[:, None]).numpy()
        kinds = Counter()
        for _ in range(400):
            light = sample_light(rng, cameras)
            assert light.ambient + light.diffuse == pytest.approx(1)
            assert 0.6 <= light.ambient <= 0.75
            np.testing.assert_allclose(np.linalg.norm(light.direction, axis=-1), 1, atol=1e-6)
            kinds[light.direction.ndim] += 1
            if light.direction.ndim == 1:
                assert (light.direction > 0).all()  # front (+Z), upper (+Y), right (+X)
            else:
                cosines = (light.direction * toward).sum(-1)
                np.testing.assert_allclose(cosines, cosines[0], atol=1e-5)
                assert cosines[0] > 0.4
        assert 160 < kinds[1] < 240


class TestPrompts:
    def test_prompt_and_spec_give_the_same_pictures(self):
        by_text = render_prompt("a red mug", [0.0, 90.0], seed=1, size=32)
        assert by_text.shape == (2, 32, 32, 3)
        assert np.array_equal(by_text, render_prompt(RED_MUG, [0.0, 90.0], seed=1, size=32))
        assert not np.array_equal(by_text, render_prompt("a red mug", [0.0, 90.0], seed=2, size=32))

    def test_the_colour_is_that_of_the_prompt(self):
        red = render_prompt("a red chair", size=32).reshape(-1, 3).mean(0)
        blue = render_prompt("a blue chair", size=32).reshape(-1, 3).mean(0)
        assert red[0] > red[2]
        assert blue[2] > blue[0]

    def test_the_snowmans_nose_points_forward(self):
        """An orange nose is on the left of the picture from +X, on the right from -X, and hidden from behind."""
        pictures = render_prompt("a white snowman", [90.0, 270.0, 180.0], elevation=0.0, size=64).astype(int)
        orange = (pictures[..., 0] - pictures[..., 2]) > 120
        columns = [np.nonzero(mask)[1] for mask in orange]
        assert columns[0].max() < 32 < columns[1].min()
        assert columns[2].size == 0

    def test_unknown_prompt_is_refused(self):
        with pytest.raises(ValueError, match="a red mug"):
            render_prompt("a photorealistic dragon")


class TestFiles:
    def test_saved_set_reads_back(self, tmp_path):
        objects = list(iterate_objects(3, seed=2, size=16))
        done = []
        assert save_dataset(tmp_path, objects, seed=2, progress=done.append) == 12
        assert done == [1, 2, 3]
        lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
        assert len(lines) == 12
        for i, line in enumerate(lines):
            views, j = objects[i // 4], i % 4
            picture = np.asarray(Image.open(tmp_path / line["file_name"]))
            assert np.array_equal(picture, views.pictures[j])
            assert (line["category"], line["color"]) == (views.spec.category, views.spec.color)
            assert line["azimuth"] == pytest.approx(views.azimuth[j])
            assert (line["elevation"], line["distance"], line["fovy"]) == (views.elevation, views.distance, FOVY)
            wrapped = abs((line["azimuth"] + 180) % 360 - 180)
            expected = "front" if wrapped < 45 else "back" if wrapped > 135 else "side"
            assert line["view"] == ("overhead" if views.elevation > 60 else expected)
            assert not WORLD.read(line["prompt"]).unknown
            assert line["object"] == i // 4
