"""A diffusion model in closed form: p(x | y) = N(m_y, s_y^2).

With x_t = alpha x + sigma eps, x_t is Gaussian, N(alpha m, D) with D = alpha^2 s^2 + sigma^2. The ideal predictions
need no network:

    eps(x_t) = sigma (x_t - alpha m) / D          x0(x_t) = m + alpha s^2 (x_t - alpha m) / D

With several views, the values at the same place in the n views are jointly Gaussian with the covariance
S_ij = s_i s_j (rho + (1 - rho) [i = j]). D becomes the matrix A = diag(alpha) S diag(alpha) + diag(sigma^2):

    eps = diag(sigma) A^-1 (x_t - alpha m)        x0 = m + S diag(alpha) A^-1 (x_t - alpha m)

The fixed points of guidance rules on this model can be derived by hand. It is the oracle of the tests and the smallest
example of the `Prior` contract.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from sds3d.cameras import Cameras
from sds3d.priors.base import Prediction, PredictionType, no_pictures, refuse_untaken
from sds3d.priors.multiview import CAMERA_FEATURES, camera_features
from sds3d.prompts.conditioning import Conditioning

BETA_START, BETA_END, STEPS = 0.00085, 0.012, 1000  # Stable Diffusion's scaled-linear schedule


@dataclass(frozen=True)
class Gaussian:
    """N(mean, std^2) for each value of x independently. mean: a number, or a tensor that broadcasts to x."""

    mean: float | Tensor
    std: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be above 0, got {self.std}")


class GaussianPrior:
    """The exact denoiser of one Gaussian per prompt.

    prompts: the Gaussians by prompt, "" included. A prompt that is not among them is looked up without the words after
    its last comma, which are those of a view. shape: (C, h, w) of x; with C = 3, x is the picture itself, and encoding
    and decoding only move the channels. n_views, rho: the number of views that are denoised together, and their
    correlation in (-1/(n_views - 1), 1); with 0 they are independent. schedule: cosine, alpha = cos(pi t / 2), or
    scaled_linear, Stable Diffusion's in continuous time.
    """

    def __init__(
        self,
        prompts: Mapping[str, Gaussian],
        shape: tuple[int, int, int] = (3, 8, 8),
        *,
        schedule: Literal["cosine", "scaled_linear"] = "cosine",
        n_views: int = 1,
        rho: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if n_views > 1 and not -1 / (n_views - 1) < rho < 1:
            raise ValueError(f"rho must be in ({-1 / (n_views - 1):.3g}, 1) for {n_views} views, got {rho}")
        self.prompts = dict(prompts)
        self.shape = shape
        self.schedule = schedule
        self.n_views = n_views
        self.takes_cameras = n_views > 1
        self.takes_pictures = self.takes_structure = self.needs_structure = self.takes_light = False
        self.shift = 1.0
        self.rho = rho
        self.device = torch.device(device)
        self.dtype = dtype
        self.image_size = shape[-1]
        self.prediction_type: PredictionType = "v_prediction"  # of no network; v is bounded at every t

    def encode_text(self, prompts: Sequence[str]) -> Conditioning:
        """Return mean and standard deviation of every value of x as "tokens": hidden is (B, C h w, 2)."""
        rows = []
        for prompt in prompts:
            text = prompt
            while (gaussian := self.prompts.get(text)) is None and ", " in text:
                text = text.rpartition(", ")[0]  # without the words of a view, or others that a rule adds
            if gaussian is None:
                raise ValueError(f"no Gaussian for the prompt {prompt!r}; there are {sorted(self.prompts)}")
            mean = torch.as_tensor(gaussian.mean, dtype=self.dtype).expand(self.shape).flatten()
            rows.append(torch.stack([mean, torch.full_like(mean, gaussian.std)], dim=-1))
        return Conditioning(torch.stack(rows).to(self.device))

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Map rgb (B, h, w, 3) to x (B, 3, h, w), the same values."""
        return rgb.permute(0, 3, 1, 2)

    def encode_picture(self, rgb: Tensor) -> Tensor:
        """Raise PriorError: conditions are texts alone."""
        raise no_pictures(self)

    def decode(self, x: Tensor) -> Tensor:
        """Map x (B, 3, h, w) to rgb (B, h, w, 3), clamped to [0, 1]."""
        return x.detach().permute(0, 2, 3, 1).clamp(0.0, 1.0)

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal scale at t, same shape and dtype as t."""
        if self.schedule == "cosine":
            return torch.cos(0.5 * math.pi * t)
        return torch.exp(-0.5 * _integrated_beta(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise scale at t; alpha^2 + sigma^2 = 1."""
        if self.schedule == "cosine":
            return torch.sin(0.5 * math.pi * t)
        return torch.sqrt(-torch.expm1(-_integrated_beta(t)))

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Return the exact eps and x0 for x_t (B, C, h, w) at t (B,), which may differ between views.

        cameras: None: each view alone, without correlation. The positions of cameras have no effect.
        """
        refuse_untaken(self, cond)
        n = 1 if cameras is None else self.n_views
        mean, std = cond.hidden[..., 0], cond.hidden[:, 0, 1].reshape(-1, n, 1)  # (B, E), (G, n, 1)
        alpha, sigma = (scale(t).to(x_t.dtype).reshape(-1, n, 1) for scale in (self.alpha, self.sigma))  # (G, n, 1)
        mean = mean.reshape(-1, n, mean.shape[-1])  # (G, n, E)
        correlation = self.rho + (1 - self.rho) * torch.eye(n, dtype=x_t.dtype, device=x_t.device)
        covariance = std * correlation * std.mT  # (G, n, n)
        noised = alpha * covariance * alpha.mT + torch.diag_embed(sigma[..., 0] ** 2)  # (G, n, n)
        whitened = torch.linalg.solve(noised, x_t.reshape(mean.shape) - alpha * mean)  # (G, n, E)
        eps = sigma * whitened
        x0 = mean + covariance @ (alpha * whitened)
        return Prediction(eps.reshape(x_t.shape), x0.reshape(x_t.shape))

    def trainable_score(self, generator: torch.Generator, rank: int = 4) -> GaussianScore:
        """Return a Gaussian with a learned mean, by camera, and a learned spread. rank and generator have no effect."""
        return GaussianScore(self)

    def joint_score(self, generator: torch.Generator, rank: int, maps: int) -> GaussianScore:
        """Return a Gaussian with a learned mean and spread that all maps share: in this model they are independent."""
        return GaussianScore(self, cameras=False)


class GaussianScore:
    """The score of a Gaussian with a learned mean and spread, as a variational rule learns the score of renders.

    The mean moves by an offset and, if cameras are given, by a linear map of `camera_features`. cameras: whether they
    may be given.
    """

    def __init__(self, prior: GaussianPrior, cameras: bool = True) -> None:
        self.prior = prior
        values = math.prod(prior.shape)

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=prior.dtype, device=prior.device))

        camera = {"camera": zeros(CAMERA_FEATURES, values)} if cameras else {}
        self._trained = {"mean": zeros(values), **camera, "log_std": zeros()}

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning, cameras: Cameras | None) -> Prediction:
        """Predict as `GaussianPrior.predict` does."""
        offset = self._trained["mean"].expand(len(x_t), -1)  # (B, E)
        if cameras is not None:
            offset = offset + camera_features(cameras).to(self.prior.dtype) @ self._trained["camera"]
        mean, std = cond.hidden[..., 0] + offset, cond.hidden[..., 1] * self._trained["log_std"].exp()  # (B, E)
        return self.prior.predict(x_t, t, replace(cond, hidden=torch.stack([mean, std], dim=-1)), cameras)

    def parameters(self) -> list[nn.Parameter]:
        """Return offset, camera map and log of the factor on the standard deviation."""
        return list(self._trained.values())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return {name: value.detach() for name, value in self._trained.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, value in self._trained.items():
            value.copy_(state[name])


def _integrated_beta(t: Tensor) -> Tensor:
    """Return the integral of beta from 0 to t, for sqrt(beta) linear in t: alpha^2 = exp(-integral)."""
    start, rise = math.sqrt(BETA_START), math.sqrt(BETA_END) - math.sqrt(BETA_START)
    return STEPS * (start**2 * t + start * rise * t**2 + rise**2 * t**3 / 3)
