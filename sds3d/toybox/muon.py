"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum with orthogonalised matrices.

Every direction of a weight matrix then learns equally fast. This matters here because denoising and colours dominate
the gradients, while category and camera, which are decisive in distillation, contribute little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

# The quintic of the source. Its iteration maps singular values in (0, 1] to about 1 (0.7 to 1.2) in five steps.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised matrices, scaled to the step of AdamW at the same rate.

    params: weights of two or more dimensions; all but the first are flattened. lr: as for AdamW, since an update has a
    root mean square of about 0.2 lr (Liu et al. 2025, arXiv:2502.16982, sec. 2.2).
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float | Tensor, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Under torch.distributed, the processes share the work.

        Matrices of one shape are orthogonalised together. Nothing waits for the device, and `lr` may be a tensor on it.
        """
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for weight, nesterov in zip(weights, self._nesterov(weights, group["momentum"]), strict=True):
                by_shape.setdefault((len(weight), weight[0].numel()), []).append(nesterov.flatten(1))
            stacks: list[Tensor] = []
            for shape, alike in by_shape.items():
                stack = torch.zeros(len(alike), *shape, dtype=alike[0].dtype, device=alike[0].device)
                if mine := alike[rank::processes]:
                    stack[rank::processes] = 0.2 * max(shape) ** 0.5 * orthogonalised(torch.stack(mine))
                stacks.append(stack)
            if processes > 1:
                sum_over_processes(stacks)
            # Operations on lists are a few launches on a GPU, where single ones would be a thousand.
            updates = {shape: iter(stack * group["lr"]) for shape, stack in zip(by_shape, stacks, strict=True)}
            changes = [next(updates[len(w), w[0].numel()]).view(w.shape) for w in weights]
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(weights, changes)

    def _nesterov(self, weights: Sequence[Tensor], decay: float) -> Sequence[Tensor]:
        """Update the momenta and return the gradients with Nesterov momentum."""
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        if not weights:
            return []
        momenta = [self.state[weight]["momentum"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - decay)
        return torch._foreach_lerp(gradients, momenta, decay)


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one message."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view(tensor.shape))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about U V^T of the singular value decomposition U S V^T of (..., m, n), by Newton-Schulz iterations.

    The iteration multiplies by polynomials of the Gram matrix, which all commute. It therefore runs on the Gram matrix
    of the shorter side, and uses the whole matrix only before and after.
    """
    m, n = matrix.shape[-2:]
    if m > n:
        return orthogonalised(matrix.mT).mT
    x = matrix.reshape(-1, m, n)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)  # (b, m, n)
    gram = x @ x.mT  # (b, m, m)
    product = None
    for i in range(_ITERATIONS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        polynomial.diagonal(dim1=1, dim2=2).add_(_A)
        product = polynomial if product is None else polynomial @ product
        if i + 1 < _ITERATIONS:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return (product @ x).view(matrix.shape)


def split_parameters(model: nn.Module) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return the trainable parameters for Muon and for AdamW.

    AdamW gets embeddings, norms, biases and matrices with a side below 32.
    """
    matrices = [
        module.weight
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
        and module.weight.requires_grad
        and min(module.weight.shape[0], module.weight[0].numel()) >= 32
    ]
    chosen = {id(weight) for weight in matrices}
    return matrices, [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
