"""Splatting on the CPU for torch's autograd: the kernels of the three steps, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sds3d.rendering import splatting_blend_numba, splatting_projection_numba
from sds3d.rendering.splatting_tiles_numba import bin_splats


def array_of(tensor: Tensor) -> Any:
    """Return a contiguous array of a tensor on the CPU."""
    return tensor.detach().contiguous().numpy()


class Project(torch.autograd.Function):
    """Project Gaussians by `splatting_projection_numba.project`. camera: as in `splatting`."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        camera: Any,
    ) -> tuple[Tensor, ...]:
        """See the class."""
        inputs = array_of(means), array_of(quats), array_of(scales)
        matrices = array_of(viewmats.float()), array_of(Ks.float())
        outputs = splatting_projection_numba.project(
            *inputs, array_of(opacities), *matrices,
            width=camera.width, height=camera.height, near=camera.near, far=camera.far, blur=camera.blur,
            radius_clip=camera.radius_clip,
        )  # fmt: skip
        ctx.inputs, ctx.outputs, ctx.camera = (*inputs, *matrices), outputs[2:4], camera
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        ctx.mark_non_differentiable(tensors[4])
        return tensors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        d_means2d, d_depths, d_conics, d_compensations, _ = (array_of(gradient) for gradient in gradients)
        means, quats, scales, viewmats, intrinsics = ctx.inputs
        results = splatting_projection_numba.project_backward(
            means, quats, scales, viewmats, intrinsics, ctx.outputs, (d_means2d, d_depths, d_conics, d_compensations),
            width=ctx.camera.width, height=ctx.camera.height, blur=ctx.camera.blur,
        )  # fmt: skip
        return (*(torch.from_numpy(result) for result in results), None, None, None, None)


class Blend(torch.autograd.Function):
    """Bin Gaussians into tiles and blend them by `splatting_blend_numba.blend`. camera: as in `splatting`."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        features: Tensor,
        depths: Tensor,
        camera: Any,
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        splats = array_of(means2d), array_of(conics), array_of(opacities), array_of(features), array_of(depths)
        bins = bin_splats(*splats, camera.width, camera.height)
        picture, alpha = (torch.from_numpy(array) for array in splatting_blend_numba.blend(bins))
        ctx.bins = bins
        ctx.save_for_backward(picture, alpha)
        return picture, alpha

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        picture, alpha, d_picture, d_alpha = (array_of(tensor) for tensor in (*ctx.saved_tensors, *gradients))
        results = splatting_blend_numba.blend_backward(ctx.bins, picture, alpha, d_picture, d_alpha)
        return (*(torch.from_numpy(result) for result in results), None, None)
