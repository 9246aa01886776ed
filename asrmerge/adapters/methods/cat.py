"""The weighted sum of the products, exact, with the ranks added up."""

from __future__ import annotations

import torch

from asrmerge.adapters.factors import FactorBlock, Factors
from asrmerge.merging.block import Parameters


class CatParameters(Parameters):
    """None."""


class Cat:
    """The weighted sum of the adapters without any loss, their factors side by side.

    Σ wₜBₜAₜ = B·A with B = [B₁ … B_T], A = [w₁A₁; …; w_T·A_T]. The rank is Σrₜ, which makes the merged adapter as slow as all
    of them together. As PEFT's ``cat``. Weights multiply the deltas and may be negative.

    Invariants: the same for factors (BM, M⁻¹A); the order of the adapters does not matter; a one-hot weight returns that
    adapter; zero weights return zero; identical adapters come back if and only if Σ wₜ = 1.
    """

    name = "cat"
    parameters = CatParameters

    def merge(self, block: FactorBlock, parameters: CatParameters) -> Factors:
        """Shapes: factors [T] of ([out, rₜ], [rₜ, in]) → [out, Σrₜ], [Σrₜ, in]."""
        weighted = [one.a * weight for one, weight in zip(block.factors, block.weights, strict=True)]
        return Factors(torch.cat([one.b for one in block.factors], dim=1), torch.cat(weighted, dim=0))


method = Cat()
