"""What is collected of a model, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from asrmerge.validation import Section

Kind = Literal["fisher", "grams", "factors", "activations"]
KINDS: tuple[Kind, ...] = ("fisher", "grams", "factors", "activations")
GRADIENTS: tuple[Kind, ...] = ("fisher", "factors")  # what takes a backward pass of every utterance by itself


class StatisticsSettings(Section):
    """The defaults are those of ``asrmerge stats``."""

    kinds: tuple[Kind, ...] = Field(default=("fisher", "grams"), min_length=1)
    fisher: Literal["sampled", "empirical"] = Field(
        default="sampled", description="labels whose gradients count: drawn from the model, or the transcripts"
    )
    draws: int = Field(default=1, ge=1, description="samples of each utterance, where they are drawn")
    padding_every: int = Field(
        default=10,
        ge=0,
        description="of the positions that pad a window, each so-and-so-many-th counts as one of speech does; 0: none",
    )
    utterances: int | None = Field(default=None, ge=1, description="at most so many of each domain, in seeded random order")
    batch_seconds: float = Field(default=60.0, gt=0, description="padded audio in a batch where no gradients are taken")
    widest: int = Field(default=8192, ge=1, description="linear maps with more inputs (or outputs, for factors) are left out")
    seed: int = Field(default=0, ge=0)
    unchanged: tuple[str, ...] = Field(
        default=(), description="parameters that all models of a merge have in common: they need no statistics"
    )

    @property
    def gradients(self) -> bool:
        """Whether a backward pass is needed."""
        return any(kind in GRADIENTS for kind in self.kinds)
