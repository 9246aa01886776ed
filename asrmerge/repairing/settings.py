"""How a merged model is repaired."""

from __future__ import annotations

from pydantic import Field

from asrmerge.validation import Section


class RepairSettings(Section):
    """The defaults are those of ``asrmerge repair``."""

    utterances: int = Field(default=100, ge=1, description="at most so many of each domain, drawn by the seed")
    groups: tuple[str, ...] = Field(
        default=(), description="structural groups whose maps are repaired; by default all but the head and the embedding"
    )
    skip: tuple[str, ...] = Field(
        default=(), description="maps with one of these whole parts in their names are left as they are"
    )
    lower: float = Field(default=0.5, gt=0, le=1, description="the least factor of a unit")
    upper: float = Field(default=2.0, ge=1, description="the greatest factor of a unit")
    padding_every: int = Field(
        default=10,
        ge=0,
        description="of the silence that fills a window, every so-and-so-many-th position counts as one of speech; 0: none",
    )
    seed: int = Field(default=0, ge=0)
