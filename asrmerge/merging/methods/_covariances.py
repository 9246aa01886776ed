"""Merging as one least-squares problem: one solver, several metrics.

Many merges minimise Σ (θ − θₜ)ᵀCₜ(θ − θₜ), that is they solve

    (Σ Cₜ) θ = Σ Cₜθₜ        with symmetric positive semi-definite operators Cₜ

block by block (Tam et al., "Merging by Matching Models in Task Parameter Subspaces", arXiv 2312.04339): the average with the
identity, Fisher merging with a diagonal, RegMean with Gram matrices, MaTS with Kronecker products.

What is solved for is the way from a start: (Σ Cₜ)δ = Σ Cₜ(θₜ − start), θ = start + δ. The equation is the same, but experts are
near to each other, so that float32 tensors lose nothing by it; and where no Cₜ says anything, θ stays at the start.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from asrmerge.merging.block import add_scaled
from asrmerge.merging.methods._conjugate_gradients import Solution, conjugate_gradients

_FIRST_RIDGE = 1e-12  # where none was asked for, but one is needed
_GROWTH = 10.0


class IndefiniteError(ArithmeticError):
    """A sum of Gram matrices has eigenvalues far below zero, which no data have."""


@dataclass(frozen=True, eq=False)
class Operator(ABC):
    """c·C, with C symmetric positive semi-definite on tensors of one shape, and c the ``factor``."""

    factor: float = field(default=1.0, kw_only=True)

    def times(self, factor: float) -> Self:
        """The operator, so many times."""
        return replace(self, factor=self.factor * factor)

    @abstractmethod
    def apply(self, tensor: Tensor) -> Tensor:
        """c·C·x, a new tensor of the same shape."""

    @abstractmethod
    def mean_eigenvalue(self) -> float:
        """The trace over the number of entries that C acts on."""


@dataclass(frozen=True, eq=False)
class Identity(Operator):
    """C·x = x."""

    def apply(self, tensor: Tensor) -> Tensor:
        return self.factor * tensor

    def mean_eigenvalue(self) -> float:
        return self.factor


@dataclass(frozen=True, eq=False)
class Diagonal(Operator):
    """C·x = max(F, floor)⊙x, with F the ``entries``, of the shape of x."""

    entries: Tensor
    floor: float = 0.0

    def coefficients(self) -> Tensor:
        """The diagonal of c·C."""
        entries = self.entries.clamp(min=self.floor) if self.floor > 0 else self.entries
        return entries * self.factor

    def apply(self, tensor: Tensor) -> Tensor:
        return self.coefficients() * tensor

    def mean_eigenvalue(self) -> float:
        return float(self.coefficients().mean(dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Gram(Operator):
    """C·x = x·G̃ for a matrix x [m, n], with G̃ = αG + (1 − α)·diag(G), G the ``matrix`` [n, n] and α the ``share``."""

    matrix: Tensor
    share: float = 1.0

    def dense(self) -> Tensor:
        """c·G̃, a new float64 matrix."""
        dense = self.matrix.to(torch.float64, copy=True).mul_(self.factor * self.share)
        dense.diagonal().copy_(self.matrix.diagonal()).mul_(self.factor)
        return dense

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor.to(torch.float64) @ self.dense()

    def mean_eigenvalue(self) -> float:
        return self.factor * _mean_diagonal(self.matrix)


@dataclass(frozen=True, eq=False)
class Kronecker(Operator):
    """C·x = B·x·A for a matrix x [m, n], with B the ``left`` matrix [m, m] and A the ``right`` one [n, n]."""

    left: Tensor
    right: Tensor

    def apply(self, tensor: Tensor) -> Tensor:
        # In float64 one at a time: copies of all would take twice what the factors take.
        image = self.left.to(torch.float64) @ tensor.to(torch.float64)
        return (image @ self.right.to(torch.float64)).mul_(self.factor)

    def mean_eigenvalue(self) -> float:
        return self.factor * _mean_diagonal(self.left) * _mean_diagonal(self.right)


@dataclass(frozen=True)
class Accuracy:
    """How equations are solved where operators are matrices; sums of diagonal ones are divided by, exactly.

    Attributes:
        ridge: this share of the mean eigenvalue is added to Σ Cₜ, which holds the solution at the start where the Cₜ say little.
        iterations: of conjugate gradients, at most.
        tolerance: the residual, as a share of that at the start, at which conjugate gradients stop.
    """

    ridge: float = 0.0
    iterations: int = 100
    tolerance: float = 1e-6


def frechet_mean(
    tensors: Sequence[Tensor],
    metrics: Sequence[Operator],
    weights: Sequence[float],
    start: Tensor | None = None,
    accuracy: Accuracy = Accuracy(),
) -> Solution:
    """argmin Σ wₜ(θ − θₜ)ᵀCₜ(θ − θₜ): the Fréchet mean for distances d² ≈ (θ − θₜ)ᵀCₜ(θ − θₜ), each metric held fixed.

    With Fisher information for Cₜ it is Fisher merging: one case of the Fréchet averaging of arXiv 2604.27155.

    Args:
        tensors: θₜ, [T][*shape], float32.
        metrics: Cₜ.
        weights: such that Σ wₜCₜ is positive semi-definite; those of 0 take no part.
        start: what the result is where the metrics say nothing; by default the weighted mean, and then Σ wₜ must not be 0.
    """
    used = [(tensor, metric, weight) for tensor, metric, weight in zip(tensors, metrics, weights, strict=True) if weight != 0]
    tensors = [tensor for tensor, _, _ in used]
    if start is None:
        start = weighted_mean(tensors, [weight for _, _, weight in used])
    return solve([metric.times(weight) for _, metric, weight in used], tensors, start, accuracy)


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ wₜθₜ / Σ wₜ, the Fréchet mean with the identity for all metrics; a new tensor."""
    total = math.fsum(weights)
    return add_scaled(torch.zeros_like(tensors[0]), tensors, [weight / total for weight in weights])


def solve(operators: Sequence[Operator], tensors: Sequence[Tensor], start: Tensor, accuracy: Accuracy) -> Solution:
    """θ with (Σ Cₜ)θ = Σ Cₜθₜ; where that leaves θ open, the start.

    Sums of diagonal operators are divided by, sums of Gram matrices factorised (Cholesky), all others left to conjugate
    gradients from the start. Shapes: tensors [T][*shape], start [*shape] → float32 [*shape].

    Raises:
        IndefiniteError: a sum of Gram matrices is not positive semi-definite.
    """
    if all(isinstance(one, (Identity, Diagonal)) for one in operators):
        return Solution(_divide(operators, tensors, start))
    mean = math.fsum(one.mean_eigenvalue() for one in operators)
    if not mean > 0 or start.numel() == 0:
        return Solution(start.clone())  # a semi-definite operator without a trace is zero
    if all(isinstance(one, (Identity, Gram)) for one in operators):
        found = _factorize(operators, tensors, start, mean, accuracy.ridge)
    else:
        right = torch.zeros_like(start, dtype=torch.float64)
        for operator, tensor in zip(operators, tensors, strict=True):
            right.add_(operator.apply(tensor.to(torch.float64) - start))
        ridge = Identity(factor=accuracy.ridge * mean)
        total = lambda x: _total([*operators, ridge], x)  # noqa: E731
        found = replace(conjugate_gradients(total, right, accuracy.iterations, accuracy.tolerance), ridge=accuracy.ridge)
    return replace(found, tensor=start + found.tensor.to(torch.float32))


def _total(operators: Sequence[Operator], tensor: Tensor) -> Tensor:
    total = torch.zeros_like(tensor)
    for operator in operators:
        total.add_(operator.apply(tensor))
    return total


def _divide(operators: Sequence[Operator], tensors: Sequence[Tensor], start: Tensor) -> Tensor:
    total = torch.zeros_like(start)
    for operator in operators:
        total.add_(_coefficients(operator))
    total.masked_fill_(total <= 0, math.inf)  # shares of nothing: the start
    result = start.clone()
    for operator, tensor in zip(operators, tensors, strict=True):
        # Shares first: products of tiny Fisher information and tiny deviations would underflow.
        result.add_(torch.div(_coefficients(operator), total).mul_(tensor - start))
    return result


def _coefficients(operator: Operator) -> Tensor:
    return operator.coefficients() if isinstance(operator, Diagonal) else torch.tensor(operator.factor)


def _factorize(operators: Sequence[Operator], tensors: Sequence[Tensor], start: Tensor, mean: float, ridge: float) -> Solution:
    """δ = R·(Σ Gₜ)⁻¹ with R = Σ (θₜ − start)·Gₜ, by Cholesky."""
    columns = start.shape[-1]
    total = start.new_zeros(columns, columns, dtype=torch.float64)
    right = torch.zeros_like(start, dtype=torch.float64)
    for operator, tensor in zip(operators, tensors, strict=True):
        deviation = tensor.to(torch.float64) - start
        if isinstance(operator, Gram):
            dense = operator.dense()
            total.add_(dense)
            right.add_(deviation @ dense)
        else:
            total.diagonal().add_(operator.factor)
            right.add_(operator.apply(deviation))
    factor, used = cholesky_with_ridge(total, mean, ridge)
    return Solution(torch.cholesky_solve(right.T, factor).T, ridge=used)


def cholesky_with_ridge(matrix: Tensor, mean: float, ridge: float) -> tuple[Tensor, float]:
    """L with LLᵀ = matrix + ridge·mean·I, and the ridge, made tenfold as often as that is needed.

    Grams in float32 have rounding for eigenvalues where the data have none, of either sign, and one that happens to be minus
    the ridge would divide by zero. So half of the ridge must make the matrix positive definite; then the other half is left.

    Args:
        matrix: [n, n], float64, symmetric; its diagonal is written to.
        mean: of its eigenvalues.

    Raises:
        IndefiniteError: a ridge as large as the mean eigenvalue is not enough.
    """
    diagonal = matrix.diagonal().clone()
    while ridge <= 1:
        matrix.diagonal().copy_(diagonal + ridge * mean / 2)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed and ridge > 0:
            del factor
            matrix.diagonal().copy_(diagonal + ridge * mean)
            factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return factor, ridge
        ridge = max(_GROWTH * ridge, _FIRST_RIDGE)
    raise IndefiniteError("eigenvalues far below zero")


def _mean_diagonal(matrix: Tensor) -> float:
    return float(matrix.diagonal().mean(dtype=torch.float64))
