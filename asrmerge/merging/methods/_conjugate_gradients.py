"""Conjugate gradients for equations that are too large to factorise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Solution:
    """What an equation's solver found.

    Attributes:
        tensor: the solution.
        iterations: that were made; 0 of a direct solver.
        residual: ‖b − C·x‖ as a share of ‖b‖; 0 of a direct solver.
        ridge: what was added to the operator, as a share of its mean eigenvalue.
    """

    tensor: Tensor
    iterations: int = 0
    residual: float = 0.0
    ridge: float = 0.0


def conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor, limit: int, tolerance: float) -> Solution:
    """x with C·x = b from x = 0, for a symmetric positive semi-definite C (Hestenes & Stiefel, 1952).

    Where C is singular, x has no part in the directions that it maps to zero. Stopped early, x lies mostly in the directions of
    large eigenvalues.

    Args:
        apply: C·x of a tensor of the shape of ``right``.
        right: b, float64 of any shape; not written to.
        limit: iterations at most.
        tolerance: the residual ‖b − C·x‖/‖b‖ at which to stop.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    direction = residual.clone()
    first = squared = _squared_norm(residual)
    iterations = 0
    while iterations < limit and squared > tolerance**2 * first:
        image = apply(direction)
        curvature = float((direction * image).sum())
        if not curvature > 0:
            break  # what is left is a direction without information, but for rounding
        step = squared / curvature
        solution.add_(direction, alpha=step)
        residual.sub_(image, alpha=step)
        before, squared = squared, _squared_norm(residual)
        direction.mul_(squared / before).add_(residual)
        iterations += 1
    return Solution(solution, iterations, math.sqrt(squared / first) if first > 0 else 0.0)


def _squared_norm(tensor: Tensor) -> float:
    return float((tensor * tensor).sum())
