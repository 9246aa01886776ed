"""Task vectors added up by how sure base and experts are of each entry: uncertainty-based gradient matching."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from asrmerge.errors import ConfigError
from asrmerge.merging.block import Block, add_scaled
from asrmerge.merging.methods._covariances import Diagonal, frechet_mean, weighted_mean
from asrmerge.merging.methods._curvature import check_fisher, read_fishers
from asrmerge.merging.methods._row_chunks import ScaleParameters
from asrmerge.merging.tuning import Tuned

logger = logging.getLogger(__name__)


class UgmParameters(ScaleParameters):
    base_scale: Annotated[float, Tuned(1.0, 1e5, log=True)] = Field(
        default=1.0, ge=0.0, le=1e9, description="s₀, how many utterances the base's Fisher information counts as."
    )
    prior: float = Field(default=1e-6, ge=0.0, le=1e9, description="δ₀, what is added to every entry of the base's curvature.")
    counts: bool = Field(default=True, description="Multiply each Fisher information by the number of its utterances.")


class Ugm:
    """Task vectors added up entry by entry, weighed by the curvature of base and experts: uncertainty-based gradient matching.

    θ₀ + λ Σ wₜ (H₀ + Hₜ)/(H₀ + Σ wₛHₛ)·τₜ with H₀ = s₀·F₀ + δ₀ and Hₜ = Nₜ·Fₜ, all diagonal: Fₜ the Fisher information of the
    expert, Nₜ the number of utterances that it is the mean of, F₀ that of the base (Daheim et al., arXiv 2310.12808). It is the
    merge whose gradient differs least, to the first order, from that of a training on all data at once. A large H₀ makes it task
    arithmetic, a small one Fisher merging.

    Without ``base_statistics`` in the recipe H₀ is δ₀ everywhere; where a Fisher file does not say of how many utterances it is,
    all Nₜ are 1. The log (INFO) says so. The equation is (H₀ + Σ wₛHₛ)δ = Σ wₜ(H₀ + Hₜ)τₜ, the common one of such merges with
    the base as one more model, of curvature (1 − Σ wₜ)·H₀. Entries without any curvature, base and prior included, get the
    weighted mean of the task vectors. Weights are not negative: the denominator could vanish.

    Invariants: the order of the experts does not matter; zero weights or zero scale return the base; one expert of weight 1
    comes back; with Fₜ = 0 it is task arithmetic; with H₀ = 0 and λ = 1, Fisher merging; identical experts come back if and only
    if Σ wₜ = 1 or H₀ = 0.
    """

    name = "ugm"
    needs_base = True
    elementwise = True
    weights_share = True
    weight_range = (0.0, 2.0)
    statistics = ("fisher",)
    parameters = UgmParameters

    def prepare(self, blocks: Callable[[], Iterator[Block]], parameters: UgmParameters) -> None:
        """Says once what the recipe leaves open."""
        for block in blocks():
            if block.base_fisher is None and parameters.base_scale > 0:
                logger.info("ugm: the recipe has no base_statistics, so the base's curvature is %g everywhere", parameters.prior)
            if block.utterances is None and parameters.counts:
                logger.info("ugm: not all Fisher files say of how many utterances they are, so each counts as one")
            return

    def merge(self, block: Block, parameters: UgmParameters) -> Tensor:
        """Shapes: base, its Fisher diagonal [*shape], experts and their Fisher diagonals [T][*shape] → [*shape].

        Raises:
            ConfigError: there is no base, a weight is negative, or there is no Fisher information or an unusable one.
        """
        base, weights = block.need_base(self.name), block.weights
        if min(weights) < 0:
            raise ConfigError("ugm takes weights of 0 or more: change them.")
        fishers, deltas = read_fishers(self.name, block), block.task_vectors()
        if not any(weights):
            return base.clone()
        own = _base_curvature(block, parameters)
        curvatures = [Diagonal(own + count * fisher) for count, fisher in zip(_counts(block, parameters), fishers, strict=True)]
        step = frechet_mean(
            [*deltas, torch.zeros_like(base)],
            [*curvatures, Diagonal(own)],
            [*weights, 1 - math.fsum(weights)],
            start=weighted_mean(deltas, weights),
        )
        return add_scaled(base.clone(), [step.tensor], [parameters.scale])


def _base_curvature(block: Block, parameters: UgmParameters) -> Tensor:
    """H₀."""
    if block.base_fisher is None:
        return torch.full_like(block.need_base("ugm"), parameters.prior)
    check_fisher(f"the base's {block.name}", block.base_fisher)
    return block.base_fisher * parameters.base_scale + parameters.prior


def _counts(block: Block, parameters: UgmParameters) -> Sequence[int]:
    return block.utterances if parameters.counts and block.utterances is not None else [1] * len(block.weights)


method = Ugm()
