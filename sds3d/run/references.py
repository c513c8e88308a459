"""Pictures of the object from known cameras, which the scene follows beside any guidance rule.

As in DreamCraft3D (Sun et al. 2023, arXiv:2310.16818, section 4.1), the scene is rendered from a picture's camera and
compared with it: colours, outline and, where given, depth and normals. The picture's background is replaced by the
render's, a grey that is drawn in each step, so that the scene cannot imitate it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from sds3d.cameras import CameraConfig, Cameras, camera_distance
from sds3d.priors.base import Prior
from sds3d.priors.unet_latent import DiffusersPrior
from sds3d.rendering.resizing import resize
from sds3d.representations.base import Rendering, Scene
from sds3d.run.reference_cameras import SIZE, Place, as_rendered, placed, product, refine, search, unlikeness
from sds3d.run.reference_config import ReferenceConfig
from sds3d.run.reference_pictures import COLOR, DEPTH, MASK, NORMAL, SEEN, View, read_view
from sds3d.run.reference_poses import Asked

STREAM = "reference"
"""Name of the random stream that references need."""
SEARCH_AT = 0.4
"""Progress at which the scene has its rough shape. Cameras are sought then, and corrected from then on: compared with
what a scene starts from, good ones would become bad."""
AGAIN_AT = 0.6
"""Progress at which cameras that were found are sought once more near by, by the prior alone: the scene is less fat by
then, and a picture at its true size tells the elevation better."""
REFINE_EVERY = 5
"""Steps between two corrections of a camera."""
TRUSTED_AFTER = 40
"""Steps after which a camera that was found is trusted: the weight of the outline rises until then, so that the scene
does not grow spikes to fill an outline that is a little off."""
_COVERED = 0.5  # mask from which on a pixel has the object's depth and normal


class References:
    """The pictures of a run and the changes that their cameras have been given.

    configs, views: one per picture. device: of renders. Pictures stay on the CPU; the device gets them at the sizes of
    renders.
    """

    def __init__(
        self, configs: Sequence[ReferenceConfig], views: Sequence[View], device: torch.device | str = "cpu"
    ) -> None:
        self.configs = configs
        self.device = torch.device(device)
        self._layers = [torch.from_numpy(view.layers) for view in views]
        self._sized: dict[int, Tensor] = {}
        self._cameras = Cameras.cat([view.camera for view in views]).to(self.device)
        # Without a field of view, the picture's own is as good as any, so the distance stays that of renders.
        self._zooms = [config.distance is None and config.fovy is None for config in configs]
        self._place = Place(self._cameras, torch.tensor(self._zooms, device=self.device))
        self._moving = [i for i, config in enumerate(configs) if config.refine]
        self._unknown = [i for i, config in enumerate(configs) if config.sought]
        self._fixed = torch.tensor([not (c.refine or c.sought) for c in configs], device=self.device)
        self.changes = torch.zeros(len(views), 5, device=self.device)  # see `Place`
        self._pace = torch.ones(len(views), device=self.device)
        self._followed = 0 if self._unknown else TRUSTED_AFTER  # steps since cameras were found
        self._asked: Asked | None = None
        self._sought_again = False
        self._shaped = False  # whether the scene has its rough shape, which stays so in later stages

    def losses(
        self, scene: Scene, step: int, progress: float, size: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the weighted losses of the pictures whose turn it is, summed over pixels of renders of this size.

        step: from 0. progress: 0 at the first step, 1 at the last.
        """
        grey = torch.rand((), generator=generator).expand(3)  # always drawn, so that draws do not depend on turns
        self._shaped |= progress >= SEARCH_AT
        if self._shaped and self._unknown:
            self.find(scene)
        elif self._shaped and step % REFINE_EVERY == 0:
            self.correct(scene)
            if progress >= AGAIN_AT and not self._sought_again:
                self.find_again(scene)
        self._followed += not self._unknown and self._followed < TRUSTED_AFTER
        turn = [i for i, c in enumerate(self.configs) if (step + i) % c.every == 0 and i not in self._unknown]
        if not turn:
            return {}
        rows = torch.tensor(turn).to(self.device, non_blocking=True)
        cameras = self.cameras(size)[rows]
        grey = grey.to(self.device, non_blocking=True)
        rendering = scene.portray(cameras, grey)
        layers = self._at(size)[rows]
        parts = {"color": color_losses(rendering, layers, grey), "mask": mask_losses(rendering, layers)}
        if not scene.shows_colors:
            del parts["color"]
        if any(self.configs[i].depth for i in turn):
            parts["depth"] = depth_losses(rendering, layers)
        if any(self.configs[i].normal for i in turn):
            parts["normal"] = normal_losses(rendering, layers, cameras)
        weighted = {}
        for name, values in parts.items():
            weights = [self._weight(i, name, progress) for i in turn]
            if any(weights):
                weighted[f"reference_{name}"] = (
                    torch.tensor(weights).to(self.device, non_blocking=True) * values
                ).sum()
        return weighted

    def _weight(self, index: int, name: str, progress: float) -> float:
        config = self.configs[index]
        given = name in ("color", "mask") or bool(getattr(config, name))
        trust = self._followed / TRUSTED_AFTER if name == "mask" and config.sought else 1.0
        return trust * getattr(config, f"{name}_weight").at(progress) if given else 0.0

    def ask(self, prior: Prior, prompt: str, cameras: CameraConfig) -> None:
        """Let a prior tell the cameras that are not known, if it can. prompt, cameras: of the run."""
        distance, fovy = camera_distance(cameras)
        # Of multi-view priors, those of the toy world are also trained on single views with their cameras.
        self._asked = None
        if isinstance(prior, DiffusersPrior) and prior.takes_cameras:
            self._asked = Asked(prior, prompt, distance, fovy)

    def find(self, scene: Scene) -> None:
        """Find the cameras that are not known: by renders of the scene, and then also by the prior if it can tell them.

        The size of the object is that of the scene, which follows the prompt until then.
        """
        self.changes = self.changes.clone()  # see `state_dict`
        for i in self._unknown:
            place, layers = self._place[i : i + 1], self._at(SIZE)[i : i + 1]
            unlike = unlikeness(scene, place, layers)
            found = placed(scene, place, layers, search(unlike, self.device))
            if self._asked is not None:  # the picture at the usual size, which priors know best
                picture = as_rendered(self._at(self._asked.prior.image_size)[i : i + 1], found)
                loss = product(unlike, self._asked.loss(picture))
                found = placed(scene, place, layers, search(loss, self.device))
            self.changes[i] = found
        self._unknown = []

    def find_again(self, scene: Scene) -> None:
        """Let the prior, if it can, correct the cameras that were found."""
        self._sought_again = True
        if self._asked is None:
            return
        for i in (i for i, config in enumerate(self.configs) if config.sought):
            picture = self._at(self._asked.prior.image_size)[i : i + 1]
            loss = self._asked.loss(as_rendered(picture, self.changes[i]))
            angles = search(loss, self.device, near=self.changes[i, :2])
            self.changes[i] = placed(scene, self._place[i : i + 1], self._at(SIZE)[i : i + 1], angles)

    def correct(self, scene: Scene) -> None:
        """Correct the cameras that may move and are known by now.

        A picture whose camera was found keeps the size and the place of its object in the scene: the prompt decides how
        large the object is, and the rough shape is fatter than the finished one.
        """
        self.changes, self._pace = self.changes.clone(), self._pace.clone()  # see `state_dict`
        for i in (i for i in range(len(self.configs)) if i not in self._unknown):
            place, layers = self._place[i : i + 1], self._at(SIZE)[i : i + 1]
            if i in self._moving:
                self.changes[i], self._pace[i] = refine(
                    scene, place, layers, self.changes[i], self._pace[i], aligned=self._zooms[i]
                )
            elif self.configs[i].sought:
                self.changes[i] = placed(scene, place, layers, self.changes[i, :2])

    def told(self) -> list[str]:
        """Return a line about each camera that was found."""
        cameras = self.cameras(SIZE)
        return [
            f"{Path(config.image).name}: its camera was found at azimuth {azimuth:.0f}, elevation {elevation:.0f}"
            for config, azimuth, elevation in zip(
                self.configs, cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True
            )
            if config.sought and not self._unknown
        ]

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the next step depends on. Later steps do not change these tensors."""
        unknown = torch.tensor([i in self._unknown for i in range(len(self.configs))])
        return {
            "changes": self.changes,
            "pace": self._pace,
            "unknown": unknown,
            "followed": torch.tensor(self._followed),
            "shaped": torch.tensor(self._shaped),
            "sought_again": torch.tensor(self._sought_again),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.changes, self._pace = state["changes"].to(self.device), state["pace"].to(self.device)
        self._unknown = [i for i, unknown in enumerate(state["unknown"].tolist()) if unknown]
        self._followed, self._shaped = int(state["followed"]), bool(state["shaped"])
        self._sought_again = bool(state.get("sought_again", True))  # not in runs by earlier versions

    def cameras(self, size: int) -> Cameras:
        """Return the cameras of all pictures, for renders of this height and width."""
        if not self._moving and not any(config.sought for config in self.configs):
            return self._cameras.resized(size, size)
        known, moved, fixed = self._cameras.resized(size, size), self._place.changed(self.changes, size), self._fixed
        return Cameras(
            torch.where(fixed, known.azimuth, moved.azimuth),
            torch.where(fixed, known.elevation, moved.elevation),
            torch.where(fixed, known.distance, moved.distance),
            torch.where(fixed, known.fovy, moved.fovy),
            size,
            size,
            torch.where(fixed[:, None, None], known.c2w(), moved.c2w()),
        )

    def _at(self, size: int) -> Tensor:
        """Return the layers of all pictures at a size, on the device: (n, size, size, C), see `View`.

        C is the largest of all. Other than there, depth and normals are not times the mask.
        """
        if size not in self._sized:
            channels = max(layers.shape[-1] for layers in self._layers)
            sized = torch.cat([_resized(layers, size, channels) for layers in self._layers])
            self._sized[size] = sized.to(self.device, non_blocking=True)
        return self._sized[size]


def read_references(
    configs: Sequence[ReferenceConfig], cameras: CameraConfig, device: torch.device | str
) -> References | None:
    """Read the pictures of a run; None if it has none. cameras: of its renders. Raises ConfigError."""
    if not configs:
        return None
    return References(configs, list(_read_views(configs, cameras)), device)


def check_references(configs: Sequence[ReferenceConfig], cameras: CameraConfig) -> None:
    """Raise ConfigError if pictures of a run cannot be read; see `read_references`."""
    for _ in _read_views(configs, cameras):
        pass  # one at a time, since all together may be large


def _read_views(configs: Sequence[ReferenceConfig], cameras: CameraConfig) -> Iterator[View]:
    distance, fovy = camera_distance(cameras)
    for i, config in enumerate(configs):
        yield read_view(config, f"reference.{i}", distance, fovy)


def _resized(layers: Tensor, size: int, channels: int) -> Tensor:
    """Return layers (S, S, c) as (1, size, size, channels), see `References._at`."""
    sized = resize(layers[None], size)
    mask = sized[..., MASK]
    surface = torch.where(mask > _COVERED, sized[..., DEPTH.start :] / mask.clamp_min(_COVERED), 0.0)
    return functional.pad(torch.cat([sized[..., : DEPTH.start], surface], dim=-1), (0, channels - layers.shape[-1]))


def color_losses(rendering: Rendering, layers: Tensor, background: Tensor) -> Tensor:
    """Return 1/2 |rgb - picture|^2 of each view, summed over its pixels well inside the mask, (B,).

    Elsewhere, what is outside of the mask would be painted in the colour of the background.
    layers: (B, H, W, C), see `View`. background: (3,), that of the render, which the picture is put on.
    """
    picture = layers[..., COLOR] + (1 - layers[..., MASK]) * background
    outside = 1 - layers[..., MASK].permute(0, 3, 1, 2)
    inside = 1 - functional.max_pool2d(outside, 3, stride=1, padding=1).permute(0, 2, 3, 1)  # of all neighbours, too
    return 0.5 * (inside * layers[..., SEEN] * (rendering.rgb - picture).square()).sum(dim=(1, 2, 3))


def mask_losses(rendering: Rendering, layers: Tensor) -> Tensor:
    """Return 1/2 |opacity - mask|^2 of each view, summed over its pixels, (B,)."""
    return 0.5 * (layers[..., SEEN] * (rendering.alpha - layers[..., MASK]).square()).sum(dim=(1, 2, 3))


def depth_losses(rendering: Rendering, layers: Tensor) -> Tensor:
    """Return 1 - r of each view times the pixels of its object, (B,).

    r: Pearson's correlation of the picture's nearness with the render's negative depth, over pixels that both cover.
    """
    alpha = rendering.alpha.detach()
    weight = (layers[..., MASK] > _COVERED) * alpha  # (B, H, W, 1)
    total = weight.sum(dim=(1, 2, 3)).clamp_min(1e-6)

    def centred(values: Tensor) -> Tensor:
        mean = (weight * values).sum(dim=(1, 2, 3)) / total
        return values - mean[:, None, None, None]

    ours = centred(-rendering.depth / rendering.alpha.clamp_min(1e-3))
    theirs = centred(layers[..., DEPTH])
    both, mine, its = ((weight * x * y).sum(dim=(1, 2, 3)) for x, y in ((ours, theirs), (ours, ours), (theirs, theirs)))
    return total * (1 - both / (mine * its).clamp_min(1e-12).sqrt())


def normal_losses(rendering: Rendering, layers: Tensor, cameras: Cameras) -> Tensor:
    """Return 1 - cos of the angle between the normals of each view, summed over pixels that both cover, (B,)."""
    weight = (layers[..., MASK] > _COVERED) * rendering.alpha.detach()
    return facing_losses(rendering, layers[..., NORMAL], weight, cameras)


def facing_losses(rendering: Rendering, normals: Tensor, weight: Tensor, cameras: Cameras) -> Tensor:
    """Return 1 - cos of the angle between a render's normals and others, weighted and summed over the pixels, (B,).

    normals: (B, H, W, 3) in the camera's frame. weight: (B, H, W, 1).
    """
    turned = torch.einsum("bij,bhwi->bhwj", cameras.c2w()[:, :3, :3], rendering.normal)  # to the camera's frame
    cosine = functional.cosine_similarity(turned, normals, dim=-1, eps=1e-6)[..., None]
    return (weight * (1 - cosine)).sum(dim=(1, 2, 3))
