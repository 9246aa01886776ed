"""Task vectors a few rows at a time: the working memory stays small, and in the processor's cache, however large the tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, Parameters

CHUNK_ENTRIES = 1 << 17  # random masks are drawn chunk by chunk: another number here gives other masks

Sparsify = Callable[[Tensor], Tensor]
"""Sparse rows, a new tensor, from a task vector's rows [rows, length]; called once per chunk, in order, so that it may draw."""


class ScaleParameters(Parameters):
    """What every method with task vectors has."""

    scale: float = Field(default=1.0, ge=-10.0, le=10.0, description="λ, multiplies the merged task vector.")


def as_rows(tensor: Tensor) -> Tensor:
    """[*shape] as [rows, length]: rows run along the last dimension; a scalar or a vector is one row."""
    shape = tensor.shape
    return tensor.reshape(math.prod(shape[:-1]), shape[-1] if shape else 1)


def iterate_chunks(block: Block) -> Iterator[tuple[slice, list[Tensor]]]:
    """Slices of rows, each with the rows [rows, length] of every expert's task vector, which must not be written to.

    Raises:
        ConfigError: there is no base to subtract.
    """
    if block.deltas is None and block.base is None:
        raise ConfigError(f"{block.name} has no base to subtract: name the base in the recipe.")
    base = None if block.deltas is not None or block.base is None else as_rows(block.base)
    sources = [as_rows(tensor) for tensor in (block.experts if block.deltas is None else block.deltas)]
    count, length = as_rows(sources[0]).shape
    step = max(1, CHUNK_ENTRIES // max(1, length))
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        yield rows, [source[rows] if base is None else source[rows] - base[rows] for source in sources]


def copy_base(block: Block, method: str) -> Tensor:
    """A contiguous copy of the base, so that rows written through ``as_rows`` reach it.

    Raises:
        ConfigError: there is no base.
    """
    return block.need_base(method).clone(memory_format=torch.contiguous_format)


def sum_sparse(block: Block, sparsify: Sequence[Sparsify], scale: float, method: str) -> Tensor:
    """θ₀ + λ Σ wₜ·sparsifyₜ(τₜ).

    Raises:
        ConfigError: there is no base.
    """
    merged = copy_base(block, method)
    target = as_rows(merged)
    for rows, vectors in iterate_chunks(block):
        for vector, make_sparse, weight in zip(vectors, sparsify, block.weights, strict=True):
            target[rows].add_(make_sparse(vector), alpha=scale * weight)
    return merged
