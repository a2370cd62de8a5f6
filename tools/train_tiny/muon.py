"""Optimiser: orthogonalised momentum for matrices, AdamW for vectors and tables.

Orthogonalising the update of every matrix (Jordan et al., "Muon", 2024) roughly halves the steps that AdamW needs on
models this small.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

BLOCK_ROWS = 64  # taller matrices are orthogonalised in blocks of rows: cheaper, and as good


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices of (N, rows, columns), by a quintic Newton-Schulz iteration."""
    x = (matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.transpose(1, 2) if tall else x).float()


class Muon:
    """Steps ``matrices`` by orthogonalised momentum and ``others`` by AdamW without weight decay."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        matrix_rate: float,
        other_rate: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        self._matrices = [(parameter, torch.zeros_like(parameter)) for parameter in matrices]
        self._others = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in others]
        self._rates = (matrix_rate, other_rate)
        self._weight_decay = weight_decay
        self._momentum = momentum
        self._steps = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [entry[0] for entry in (*self._matrices, *self._others)]

    def state(self) -> dict[str, Any]:
        """Everything but the parameters that the next step depends on, for `restore`."""
        return {
            "steps": self._steps,
            "matrices": [velocity for _, velocity in self._matrices],
            "others": [(first, second) for _, first, second in self._others],
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        for (_, velocity), saved in zip(self._matrices, state["matrices"], strict=True):
            velocity.copy_(saved)
        for (_, first, second), saved in zip(self._others, state["others"], strict=True):
            first.copy_(saved[0])
            second.copy_(saved[1])

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update with both learning rates multiplied by ``scale``."""
        self._steps += 1
        rate = self._rates[0] * scale
        groups: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for parameter, velocity in self._matrices:
            if parameter.grad is not None:
                velocity.lerp_(parameter.grad, 1 - self._momentum)
                update = parameter.grad.lerp(velocity, self._momentum).flatten(1)
                rows = update.shape[0]
                blocks = rows // BLOCK_ROWS if rows > BLOCK_ROWS and rows % BLOCK_ROWS == 0 else 1
                update = update.view(blocks, rows // blocks, -1)
                groups.setdefault(update.shape[1:], []).append((parameter, update))
        for shape, members in groups.items():  # equal shapes in one product
            gain = max(1.0, shape[0] / shape[1]) ** 0.5
            updates = orthogonalised(torch.cat([update for _, update in members]))
            for (parameter, _), update in zip(members, updates.split([len(u) for _, u in members]), strict=True):
                parameter.mul_(1 - rate * self._weight_decay)
                parameter.add_(update.reshape(parameter.shape), alpha=-rate * gain)
        rate = self._rates[1] * scale
        for parameter, first, second in self._others:
            if parameter.grad is None:
                continue
            first.lerp_(parameter.grad, 0.1)
            second.lerp_(parameter.grad.square(), 0.02)
            root = (second / (1 - 0.98**self._steps)).sqrt().add_(1e-8)
            parameter.addcdiv_(first / (1 - 0.9**self._steps), root, value=-rate)


def for_convolutions(module: nn.Module, *, matrix_rate: float, other_rate: float, plain: tuple[str, ...] = ()) -> Muon:
    """Every tensor with two or more axes as a matrix, everything else, and layers named ``plain``, by AdamW."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.dim() > 1 and not name.startswith(plain or ("-",))]
    known = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in known]
    return Muon(matrices, others, matrix_rate=matrix_rate, other_rate=other_rate)


def trapezoid(step: int, steps: int, *, warmup: int, decay: float) -> float:
    """Learning-rate factor: linear warm-up, a plateau, and a linear fall over the last ``decay`` of the run."""
    return min(1.0, (step + 1) / warmup) * max(0.01, min(1.0, (1 - step / steps) / decay))


class Average:
    """Exponential moving average of a module's state; young averages forget faster."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._module = module
        self._decay = decay
        self.updates = 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self._decay, self.updates / (self.updates + 20))
        for name, value in self._module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)
