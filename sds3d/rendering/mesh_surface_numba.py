"""Differentiable meshes on the CPU for torch's autograd: projection, faces, interpolation, silhouettes by kernels."""

# Arrays are passed unpacked, and pyright cannot count them.
# pyright: reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sds3d.rendering import mesh_antialias_numba as silhouettes
from sds3d.rendering import mesh_raster_numba as kernels
from sds3d.rendering.mesh_edges import MeshEdges

NEAR = 0.01
"""Metres in front of the camera. Faces with a vertex closer than this are left out."""


def array_of(tensor: Tensor) -> Any:
    """Return a contiguous array of a tensor on any device."""
    return tensor.detach().cpu().contiguous().numpy()


class Project(torch.autograd.Function):
    """Project vertices (V, 3) into the views."""

    @staticmethod
    def forward(ctx: Any, vertices: Tensor, view: Any) -> Tensor:
        """See the class."""
        ctx.view, ctx.camera = view, (view.viewmats.numpy(), view.focal.numpy(), (view.height, view.width))
        ctx.screen = kernels.project(array_of(vertices), *ctx.camera, NEAR)
        return torch.from_numpy(ctx.screen)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        return torch.from_numpy(kernels.project_backward(ctx.screen, *ctx.camera, array_of(gradients[0]))), None


class Rasterize(torch.autograd.Function):
    """Return face, barycentric and depth of screen positions, as in `Raster`."""

    @staticmethod
    def forward(ctx: Any, screen: Tensor, faces: Tensor, view: Any) -> tuple[Tensor, ...]:
        """See the class."""
        ctx.inputs = array_of(screen), array_of(faces), view.focal.numpy()
        outputs = kernels.rasterize(*ctx.inputs, (view.height, view.width))
        ctx.face = outputs[0]
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        ctx.mark_non_differentiable(tensors[0])
        return tensors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        arrays = array_of(gradients[1]), array_of(gradients[2])
        return torch.from_numpy(kernels.rasterize_backward(*ctx.inputs, ctx.face, arrays)), None, None


class Interpolate(torch.autograd.Function):
    """Interpolate attributes of the vertices at every pixel."""

    @staticmethod
    def forward(ctx: Any, attributes: Tensor, barycentric: Tensor, faces: Tensor, face: Tensor) -> Tensor:
        """See the class."""
        ctx.inputs = array_of(attributes), array_of(faces), array_of(face), array_of(barycentric)
        return torch.from_numpy(kernels.interpolate(*ctx.inputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        results = kernels.interpolate_backward(*ctx.inputs, array_of(gradients[0]))
        return (*(torch.from_numpy(result) for result in results), None, None)


class Antialias(torch.autograd.Function):
    """Mix the pixels at silhouettes."""

    @staticmethod
    def forward(
        ctx: Any, pictures: Tensor, screen: Tensor, raster: Any, faces: Tensor, edges: MeshEdges, view: Any
    ) -> Tensor:
        """See the class."""
        places, arrays = array_of(screen), tuple(array_of(tensor) for tensor in edges)
        crossing = silhouettes.crossings(places, view.focal.numpy(), array_of(faces), arrays, array_of(raster.depth))
        ctx.inputs = array_of(pictures), places, arrays[0], crossing
        return torch.from_numpy(silhouettes.blend(*ctx.inputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs."""
        results = silhouettes.blend_backward(*ctx.inputs, array_of(gradients[0]))
        return (*(torch.from_numpy(result) for result in results), None, None, None, None)
