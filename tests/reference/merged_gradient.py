"""The gradient of a merged model's loss with respect to its coefficients, by automatic differentiation through the merge.

Every parameter is a function of the coefficients, and the whole goes through ``torch.func.functional_call``: what a contraction
of ordinary gradients with the task vectors must equal. Groups are told from the module tree, not from names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from asrmerge.recognizers.recognizer import Recognizer

MAGNITUDE, DIRECTION = "weight.original0", "weight.original1"


class _Called(nn.Module):
    def __init__(self, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self) -> Tensor:
        return self._loss()


def merged_gradient(
    recognizer: Recognizer,
    experts: Mapping[str, Mapping[str, Tensor]],
    coefficients: Mapping[str, Sequence[float]],
    loss: Callable[[], Tensor],
) -> tuple[float, dict[str, Tensor]]:
    """The loss, and ∂L/∂λ of every structural group [experts], experts by sorted name. The model holds the base.

    Args:
        coefficients: group → one per expert; groups without any have the base's parameters.
    """
    model = recognizer.model
    free = {group: torch.tensor(row, requires_grad=True) for group, row in coefficients.items()}
    group_of = {name: group for group, names in recognizer.groups().items() for name in names}
    base = {name: value.detach().clone() for name, value in model.named_parameters()}
    merged: dict[str, Tensor] = {}
    for name, value in base.items():
        group = group_of[name]
        if group not in free or name.endswith("encoder.embed_positions.weight"):
            merged[name] = value
        elif name.endswith(MAGNITUDE):
            stem = name.removesuffix(MAGNITUDE)
            weight = _merge([_weight(one, stem) for one in (base, *_ordered(experts))], free[group])
            # g = ‖W‖ and v = W are a weight's parts as good as any others.
            merged[name], merged[stem + DIRECTION] = weight.norm(dim=(0, 1), keepdim=True), weight
        elif not name.endswith(DIRECTION):
            merged[name] = _merge([one[name] for one in (base, *_ordered(experts))], free[group])
    arguments = {f"model.{name}": value for name, value in merged.items()}
    found = torch.func.functional_call(_Called(model, loss), arguments, ())
    gradients = torch.autograd.grad(found, list(free.values()), allow_unused=True)
    filled = [torch.zeros_like(one) if given is None else given for one, given in zip(free.values(), gradients, strict=True)]
    return float(found.detach()), dict(zip(free, filled, strict=True))


def _ordered(experts: Mapping[str, Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
    return [experts[name] for name in sorted(experts)]


def _weight(state: Mapping[str, Tensor], stem: str) -> Tensor:
    magnitude, direction = state[stem + MAGNITUDE], state[stem + DIRECTION]
    return magnitude * direction / direction.norm(dim=(0, 1), keepdim=True)


def _merge(models: Sequence[Tensor], coefficients: Tensor) -> Tensor:
    base, *experts = models
    return base + sum(coefficient * (expert - base) for coefficient, expert in zip(coefficients, experts, strict=True))
