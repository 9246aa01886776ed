"""Merged weights in a live model, and the gradient of a loss with respect to their coefficients alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, RestoredExperts
from asrmerge.merging.engine import merge_block
from asrmerge.merging.live import Resident, load_residents
from asrmerge.merging.registry import get_method

METHOD = "task_arithmetic"
Coefficients = Sequence[Sequence[float]]  # [groups][experts]


class MergedWeights:
    """θ₀ + Σ λ_gt τ_t in the parameters of a live model, with a coefficient λ_gt for each structural group g and expert t.

    The merge is the engine's own task arithmetic, and no part of a graph. Because θ is linear in λ, the gradient is

        ∂L/∂λ_gt = Σ_{θ in g} ⟨∂L/∂θ, τ_t⟩,

    the ordinary gradient of the merged parameters, contracted with the task vectors. Where a parameter is stored in parts (weight
    normalisation), the gradient of the parts is first taken back to their product. Tied parameters are one.
    Memory, on the model's device: (3 + number of experts) × the parameters that an expert has changed, in float32.

    Attributes:
        residents: the units of every module of which an expert has changed something, its unchanged bias included.
        groups: structural groups in which an expert has changed something, sorted; the rows of coefficients.
        experts: their names, sorted; the columns.
    """

    def __init__(self, model: nn.Module, experts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Args:
            model: holds the base; afterwards only parameters that an expert has changed ask for gradients.
            experts: name → state, as of ``model.state_dict()`` or read from a checkpoint.

        Raises:
            ConfigError: no experts, or none that differs from the base.
            IncompatibleError, CheckpointError: as ``LiveMerge``.
        """
        residents = load_residents(model, experts)
        self._residents = [one for one in residents if any(bool(delta.any()) for delta in one.deltas.values())]
        changed = {one.module for one in self._residents}
        self.residents = tuple(one for one in residents if one.module in changed)
        if not self._residents:
            raise ConfigError("no expert differs from the base, so there is nothing to learn: give fine-tunes of the base.")
        self.groups = tuple(sorted({one.place.group for one in self._residents}))
        self.experts = tuple(sorted(experts))
        self._rows = [self.groups.index(one.place.group) for one in self._residents]
        self._applied: list[list[float]] | None = None
        model.requires_grad_(False)
        for one in self._residents:
            for target in one.targets:
                if isinstance(target, nn.Parameter):
                    target.requires_grad_(True)

    def changes(self, parameters: Sequence[nn.Parameter]) -> bool:
        """Whether an expert has changed one of these parameters of the model."""
        changed = {id(target) for one in self._residents for target in one.targets}
        return any(id(parameter) in changed for parameter in parameters)

    @torch.no_grad()
    def apply(self, coefficients: Coefficients | Tensor) -> None:
        """Write the merge into the model: values as the engine's, to the bit. Shape: [groups, experts]."""
        rows = coefficients.tolist() if isinstance(coefficients, Tensor) else [list(row) for row in coefficients]
        if rows == self._applied:
            return
        self._applied = None
        for one, row in zip(self._residents, self._rows, strict=True):
            for target, value in zip(one.targets, one.unit.decompose(self._merge(one, rows[row]), one.stored), strict=True):
                target.copy_(value)
        self._applied = rows

    def loss(self, coefficients: Tensor, parts: Sequence[Callable[[], Tensor]]) -> Tensor:
        """The mean of several losses of the merged model, a scalar that can be differentiated with respect to the coefficients.

        The gradient is computed here, not later: one part after another, so that only one part's activations are held.

        Args:
            coefficients: [groups, experts].
            parts: each computes a scalar with the live model.
        """
        loss: Tensor = _Contraction.apply(coefficients, self, parts)  # type: ignore[no-untyped-call]
        return loss

    def measure(self, coefficients: Tensor, parts: Sequence[Callable[[], Tensor]]) -> tuple[Tensor, Tensor]:
        """The mean of the losses and its gradient [groups, experts], both float32 on the device of the coefficients."""
        self.apply(coefficients)
        self._forget_gradients()
        total = 0.0
        for part in parts:
            with torch.enable_grad():
                loss = part() / len(parts)
            if loss.requires_grad:  # not so where an utterance hangs on nothing that is learnt
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        gradient = self._contract().to(coefficients.device)
        self._forget_gradients()
        return torch.tensor(total, dtype=torch.float32, device=coefficients.device), gradient

    def _merge(self, one: Resident, row: Sequence[float]) -> Tensor:
        method = get_method(METHOD)
        deltas = [one.deltas[name] for name in self.experts]
        experts = RestoredExperts(one.base, deltas)
        block = Block(one.unit.name, one.base, experts, row, deltas, self.experts, one.place)
        return merge_block(method, block, method.parameters())

    @torch.no_grad()
    def _contract(self) -> Tensor:
        assert self._applied is not None
        total = torch.zeros(len(self.groups), len(self.experts))
        for one, row in zip(self._residents, self._rows, strict=True):
            gradient = self._gradient(one, self._applied[row])
            if gradient is not None:
                flat = gradient.flatten()
                total[row] += torch.stack([torch.dot(flat, one.deltas[name].flatten()) for name in self.experts]).cpu()
        return total

    def _gradient(self, one: Resident, row: Sequence[float]) -> Tensor | None:
        """∂L/∂θ of a unit as it is merged; None where the loss does not hang on it."""
        given = [target.grad for target in one.targets]
        if all(gradient is None for gradient in given):
            return None
        found = [torch.zeros_like(t) if g is None else g for t, g in zip(one.targets, given, strict=True)]
        if not one.unit.weight_normed:
            return found[0].to(torch.float32)
        with torch.enable_grad():
            merged = self._merge(one, row).requires_grad_(True)
            stored = one.unit.decompose(merged, one.stored)
        return torch.autograd.grad(stored, merged, [part.to(torch.float32) for part in found])[0]

    def _forget_gradients(self) -> None:
        for one in self._residents:
            for target in one.targets:
                target.grad = None


class _Contraction(torch.autograd.Function):
    """A loss of merged weights as a function of their coefficients."""

    @staticmethod
    def forward(context: Any, coefficients: Tensor, weights: MergedWeights, parts: Sequence[Callable[[], Tensor]]) -> Tensor:
        value, gradient = weights.measure(coefficients.detach(), parts)
        context.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(context: Any, given: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = context.saved_tensors
        return given * gradient, None, None
