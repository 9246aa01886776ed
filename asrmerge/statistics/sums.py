"""Sums over positions, in place and in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STRIPS = 8  # of a symmetric product; what is computed is little more than half of it
_FEWEST_COLUMNS = 64  # in a strip: narrower ones cost more than they save


def pick(values: Tensor, chosen: Tensor) -> Tensor:
    """The chosen positions as rows. Shapes: values [batch, positions, …], chosen [rows], in batch · positions → [rows, units]."""
    batch, positions = values.shape[:2]
    if len(chosen) == batch * positions:
        return values.flatten(0, 1).flatten(1)
    if values.is_contiguous():
        return values.flatten(0, 1).index_select(0, chosen).flatten(1)
    return values[chosen // positions, chosen % positions].flatten(1)  # windows overlap: all of them would be a larger copy


def add_gram(total: Tensor, rows: Tensor) -> None:
    """total += Σ [x, 1][x, 1]ᵀ over the rows x, on and above the diagonal. Shapes: total [n + 1, n + 1], rows [positions, n]."""
    width = rows.shape[1]
    rows = rows.to(total.dtype)
    add_product(total[:width, :width], rows)
    total[:width, width] += rows.sum(0)
    total[width, width] += len(rows)


def add_product(total: Tensor, rows: Tensor) -> None:
    """total += rowsᵀ·rows, in place, on and above the diagonal; see :func:`whole`. Shapes: total [n, n], rows [positions, n]."""
    width = rows.shape[1]
    step = max(_FEWEST_COLUMNS, -(-width // _STRIPS))
    for start in range(0, width, step):
        stop = min(start + step, width)
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])


def whole(total: Tensor) -> Tensor:
    """The symmetric matrix of which ``total`` holds what is on and above the diagonal, and below it anything: [n, n]."""
    upper = total.triu()
    return upper + upper.triu(1).T


def effective_rank(gram: Tensor) -> float:
    """exp(H(p)), p the eigenvalues of the centred covariance divided by their sum: how many directions activations fill.

    Shapes: gram [n + 1, n + 1], the mean of [x, 1][x, 1]ᵀ. 0 where nothing varies.
    Source: Roy & Vetterli, The effective rank, EUSIPCO 2007; as in arXiv 2603.04972.
    """
    mean = gram[:-1, -1].double()
    covariance = gram[:-1, :-1].double() - torch.outer(mean, mean)
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    total = float(values.sum())
    if not total > 0:
        return 0.0
    shares = values[values > 0] / total
    return math.exp(float(-(shares * shares.log()).sum()))
