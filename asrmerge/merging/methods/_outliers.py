"""The band of magnitudes that Model Breadcrumbs keeps: neither the largest entries nor the small ones."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from pydantic import Field

from asrmerge.merging.block import Block, Parameters
from asrmerge.merging.methods._row_chunks import Sparsify
from asrmerge.merging.methods._trimming import count_kept, find_magnitudes, trim_band
from asrmerge.merging.tuning import Tuned


class BandParameters(Parameters):
    """What both Breadcrumbs methods have."""

    density: Annotated[float, Tuned(0.05, 0.95)] = Field(
        default=0.15, gt=0.0, le=1.0, description="Share of the entries kept, those below the outliers."
    )
    gamma: float = Field(default=0.01, ge=0.0, lt=1.0, description="γ, share of the entries dropped as outliers, the largest.")


def keep_bands(block: Block, parameters: BandParameters) -> list[Sparsify]:
    """Per expert: drop the γ·n largest entries, keep the density·n next ones and what equals them, drop the rest."""
    bands = find_magnitudes(lambda: iter([block]), lambda entries: band_ranks(parameters, entries))
    return [partial(trim_band, lowest=lowest, highest=highest) for highest, lowest in bands]


def band_ranks(parameters: BandParameters, entries: int) -> tuple[int, int]:
    """The ranks of the largest and the smallest magnitude kept; rank 1 is the largest of all."""
    kept = count_kept(parameters.density, entries)
    # Counting ranks from 1, no outliers means that the band starts at rank 1: no slice [-0:] that takes everything.
    outliers = min(round(parameters.gamma * entries), max(0, entries - kept))
    return outliers + 1, outliers + kept
