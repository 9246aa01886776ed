"""Coefficients that move freely: of ``learned_coefficients`` and ``adamerging``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field, model_validator
from torch import Tensor

from asrmerge.learning.method import LearningParameters
from asrmerge.learning.methods._grouping import Per, share_groups

if TYPE_CHECKING:
    from asrmerge.learning.session import Session


class CoefficientParameters(LearningParameters):
    per: Per = Field(
        default="layer", description="what has a coefficient of its own for each expert: the model, each layer, or each group"
    )
    start: float | None = Field(
        default=None, description="of every coefficient; without it 1 / number of experts, the uniform average"
    )
    lower: float | None = Field(default=None, description="what a coefficient may not fall below")
    upper: float | None = Field(default=None, description="what a coefficient may not rise above")
    pull: float = Field(default=0.0, ge=0, description="weight of the mean squared distance to the start, added to the loss")

    @model_validator(mode="after")
    def _bounds_hold_something(self) -> CoefficientParameters:
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError("lower is not below upper; change one of them")
        return self


class FreeCoefficients:
    """λ of each group and expert as it is; see ``Parametrisation``."""

    def __init__(self, session: Session, parameters: CoefficientParameters) -> None:
        experts = session.weights.experts
        default = 1 / len(experts) if parameters.start is None else parameters.start
        self.groups, self.rows = share_groups(session.weights.groups, parameters.per)
        self._start = torch.tensor([[session.start.get(name, default) for name in experts]] * len(self.groups))
        self._parameters = parameters
        self.free = self._start.clone().requires_grad_(True)
        self.bound()

    def coefficients(self) -> Tensor:
        """[groups, experts]."""
        return self.free

    def penalty(self) -> Tensor:
        """pull · mean (λ − λ₀)²."""
        return self._parameters.pull * (self.free - self._start).square().mean()

    @torch.no_grad()
    def bound(self) -> None:
        """Between lower and upper."""
        if self._parameters.lower is not None or self._parameters.upper is not None:
            self.free.clamp_(self._parameters.lower, self._parameters.upper)
