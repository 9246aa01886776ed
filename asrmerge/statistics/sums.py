"""Sums over positions, in place and in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BLOCKS = 4  # of a symmetric product, ten of sixteen blocks are computed
_FEWEST_COLUMNS = 256  # below, blocks cost more than they save


def add_gram(total: Tensor, rows: Tensor) -> None:
    """total += Σ [x, 1][x, 1]ᵀ over the rows x, in place. Shapes: total [n + 1, n + 1], rows [positions, n]."""
    width = rows.shape[1]
    rows = rows.to(total.dtype)
    add_product(total[:width, :width], rows)
    sums = rows.sum(0)
    total[width, :width] += sums
    total[:width, width] += sums
    total[width, width] += len(rows)


def add_product(total: Tensor, rows: Tensor) -> None:
    """total += rowsᵀ·rows, in place; of large ones only half is computed. Shapes: total [n, n], rows [positions, n]."""
    width = rows.shape[1]
    if width < _FEWEST_COLUMNS:
        total += rows.T @ rows
        return
    step = -(-width // _BLOCKS)
    for start in range(0, width, step):
        part = slice(start, min(start + step, width))
        rest = slice(part.stop, width)
        total[part, part] += rows[:, part].T @ rows[:, part]
        if part.stop < width:
            product = rows[:, part].T @ rows[:, rest]
            total[part, rest] += product
            total[rest, part] += product.T


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
