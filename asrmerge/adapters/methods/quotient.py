"""A Fréchet mean on the quotient manifold of fixed-rank matrices, by Riemannian gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.adapters.factors import FactorBlock, Factors, MeanParameters
from asrmerge.adapters.thin import Points, balanced, merge_points, polar, singular_triplets

_SUFFICIENT = 1e-4  # Armijo's constant
_HALVINGS = 25
_ROTATIONS = 12  # majorisation steps per rotation; the polar factor that they start from is nearly right


class QuotientParameters(MeanParameters):
    metric: Literal["mix", "inv"] = Field(
        default="mix", description="Metric: mix weighs factor changes by the singular values, inv by their inverses."
    )
    iterations: int = Field(default=100, ge=1, le=10000, description="Most steps of gradient descent.")
    tolerance: float = Field(default=1e-8, ge=0.0, le=1.0, description="Stop at a smaller relative gain of the objective.")
    floor: float = Field(
        default=0.01, ge=1e-6, le=1.0, description="Smallest singular value in the metric, as a share of the largest."
    )


class Quotient:
    """A Fréchet mean on the quotient manifold of rank-r matrices, by Riemannian gradient descent.

    A point is X = G·Hᵀ, where (G, H) and (GM, HM⁻ᵀ) are one. Minimised is f(X) = Σ wₜ min over R ∈ O(r) of ‖(G_t − GR, H_t −
    HR)‖²ₜ, where (G, H) = (U·S^½, V·S^½) is X's balanced representative, (Gₜ, Hₜ) that of BₜAₜ, and ‖·‖ₜ the metric *at
    BₜAₜ*, held fixed as X moves: for ``mix`` tr((HᵀH)aᵀa) + tr((GᵀG)cᵀc), for ``inv`` tr((GᵀG)⁻¹aᵀa) + tr((HᵀH)⁻¹cᵀc) (arXiv
    2505.05409). So d² stands for the squared norm of the aligned difference of balanced representatives: right to first
    order, not the geodesic distance. With the metric at X instead, mix would make X = 0 a minimum. In the metric, singular
    values under ``floor`` times the largest are raised to it, which also lets adapters of lower rank take part. The frame is
    that of arXiv 2604.27155.

    Descent starts at ``product``, the gradient is taken in the same metric at X, the retraction is G·Hᵀ decomposed again, and
    steps, twice the last one, are halved until f falls (Armijo), so f never ends above its value at ``product``. R is found by
    majorisation from the polar factor, nearly to a local minimum. Weights are averaged and must not be negative. A layer that an
    adapter lacks scales the mean of the others by their share of the weights.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; a one-hot weight returns that
    adapter; identical adapters come back.
    """

    name = "quotient"
    parameters = QuotientParameters

    def merge(self, block: FactorBlock, parameters: QuotientParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, r], [r, in].

        Raises:
            ConfigError: a negative weight, or weights that sum to zero.
        """

        def find_mean(points: Points, columns: int) -> Tensor:
            return descend(points.cores, points.weights, columns, parameters)[0]

        return merge_points(self.name, block, parameters, find_mean)


@dataclass(frozen=True, eq=False)
class _Objective:
    """f, from balanced points Zₜ [p + q, r] and the diagonals of their metrics [r]."""

    points: Sequence[Tensor]
    metrics: Sequence[Tensor]
    weights: Sequence[float]

    def __call__(self, z: Tensor) -> tuple[float, list[Tensor]]:
        """f and the rotations at Z."""
        rotations = [_rotation(z, point, metric) for point, metric in zip(self.points, self.metrics, strict=True)]
        terms = zip(self.points, self.metrics, self.weights, rotations, strict=True)
        value = sum(weight * float(((point - z @ r).square() * metric).sum()) for point, metric, weight, r in terms)
        return value, rotations

    def gradient(self, z: Tensor, rotations: Sequence[Tensor]) -> Tensor:
        """∂f/∂Z with the rotations held, which at their optimum is the whole derivative."""
        total = torch.zeros_like(z)
        for point, metric, weight, r in zip(self.points, self.metrics, self.weights, rotations, strict=True):
            total.add_(((z @ r - point) * metric) @ r.T, alpha=2 * weight)
        return total


def descend(
    cores: Sequence[Tensor], weights: Sequence[float], columns: int, parameters: QuotientParameters
) -> tuple[Tensor, list[float]]:
    """The mean [p, q] and the objective at the start and after each step. Shapes: cores [T] of [p, q]."""
    height = cores[0].shape[0]
    mean = sum((weight * core for weight, core in zip(weights, cores, strict=True)), torch.zeros_like(cores[0]))
    scale = max(float(torch.linalg.matrix_norm(core, 2)) for core in cores)  # so that no number below has a unit
    pairs = [balanced(core / scale, columns) for core in cores]
    metrics = [_metric(values, parameters) for _, values in pairs]
    objective = _Objective([point for point, _ in pairs], metrics, weights)
    z, s = balanced(mean / scale, columns)
    value, rotations = objective(z)
    history, step = [value], 0.5  # Newton's step where the adapters agree
    for _ in range(parameters.iterations):
        gradient = _through_balancing(objective.gradient(z, rotations), z, s, height)
        direction = gradient / _metric(s, parameters)
        slope = float((gradient * direction).sum())
        found = False
        for _ in range(_HALVINGS):
            moved, moved_s = _retract(z - step * direction, height)
            moved_value, moved_rotations = objective(moved)
            if moved_value < value - _SUFFICIENT * step * slope:
                found = True
                break
            step /= 2
        if not found:
            break
        gain = value - moved_value
        z, s, value, rotations, step = moved, moved_s, moved_value, moved_rotations, 2 * step
        history.append(value)
        if gain <= parameters.tolerance * history[0]:
            break
    return scale * (z[:height] @ z[height:].T), history


def _metric(s: Tensor, parameters: QuotientParameters) -> Tensor:
    """The diagonal of HᵀH = GᵀG = S, or of its inverse, at a balanced representative; 1 where all of S is zero."""
    largest = float(s.max()) or 1.0
    floored = s.clamp_min(parameters.floor * largest)
    return floored if parameters.metric == "mix" else 1 / floored


def _rotation(z: Tensor, point: Tensor, metric: Tensor) -> Tensor:
    """R in O(r) that minimises tr(W(Zₜ − ZR)ᵀ(Zₜ − ZR)).

    The term tr(W·Rᵀ(ZᵀZ − λ)R) is concave in R for λ = ‖ZᵀZ‖, so replacing it by its tangent gives a bound that one polar
    factor minimises; the objective never rises.
    """
    gram, cross = z.T @ z, z.T @ point
    r = polar(cross)
    bound = float(torch.linalg.matrix_norm(gram, 2))
    pull = cross * metric
    for _ in range(_ROTATIONS):
        r = polar(pull + (bound * r - gram @ r) * metric)
    return r


def _through_balancing(gradient: Tensor, z: Tensor, s: Tensor, height: int) -> Tensor:
    """The gradient of f on all (G, H), where f first balances them: moves that only unbalance the factors change nothing.

    Moving by (a, c) balances again by (GK, −HK) with K_ij = (Hᵀc + cᵀH − Gᵀa − aᵀG)_ij / (2(sᵢ + sⱼ)); this is the transpose
    of that map, at a representative with GᵀG = HᵀH = diag(s).
    """
    g, h = z[:height], z[height:]
    one, other = gradient[:height], gradient[height:]
    excess = g.T @ one - h.T @ other
    sums = s[:, None] + s[None, :]
    k = torch.where(sums > 0, (excess + excess.T) / (2 * torch.where(sums > 0, sums, 1.0)), 0.0)
    return torch.cat([one - g @ k, other + h @ k])


def _retract(z: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """The balanced representative of G·Hᵀ with Z = [G; H], and its singular values."""
    left, upper = torch.linalg.qr(z[:height])
    right, lower = torch.linalg.qr(z[height:])
    u, s, v = singular_triplets(upper @ lower.T)
    return torch.cat([left @ u, right @ v]) * s.sqrt(), s


method = Quotient()
