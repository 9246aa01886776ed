"""What a merge must keep: bounds on a domain's word error rate or term recall, absolute or relative to the base or an expert."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from asrmerge.errors import ConfigError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.counts import missed_share
from asrmerge.validation import suggest

Counts = Mapping[str, ErrorCounts]  # domain → pooled counts
Figure = Literal["wer", "terms"]
Reference = Literal["base", "expert"]

_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_RELATIVE = rf"(?P<factor>{_NUMBER})\s*\*\s*(?P<of>base|expert)|(?P<bare>base|expert)(?:\s*\*\s*(?P<after>{_NUMBER}))?"
_SIDE = rf"(?:{_RELATIVE}|(?P<limit>{_NUMBER}))"
_CONSTRAINT = re.compile(rf"(?P<domain>\S+)\.(?P<figure>wer|terms)\s*(?P<sign><=|>=)\s*{_SIDE}")


@dataclass(frozen=True)
class References:
    """What merges are measured against, on the same audio.

    Attributes:
        base: the base's counts; empty where it has not heard the audio.
        home: target domain → its own expert's counts on it.
    """

    base: Counts
    home: Counts


@dataclass(frozen=True)
class Constraint:
    """``domain.wer <= bound``, or ``domain.terms >= bound`` (recall); ``bound`` is a fraction, or multiplies a reference's."""

    text: str
    domain: str
    bound: float
    reference: Reference | None = None
    figure: Figure = "wer"

    @property
    def relative(self) -> bool:
        """Whether the limit depends on another model."""
        return self.reference is not None

    def limit(self, references: References) -> float:
        """The highest WER, or the least term recall, allowed."""
        if self.reference is None:
            return self.bound
        counts = (references.base if self.reference == "base" else references.home)[self.domain]
        return self.bound * (counts.wer if self.figure == "wer" else 1 - missed_share(counts))

    def excess(self, counts: Counts, references: References) -> float:
        """By how much the limit is overstepped; negative where there is room."""
        found = counts[self.domain]
        return found.wer - self.limit(references) if self.figure == "wer" else self.limit(references) - 1 + missed_share(found)

    @property
    def slopes(self) -> dict[str, tuple[float, float]]:
        """∂excess/∂(WER), ∂excess/∂(share of terms missed), by domain."""
        return {self.domain: (1.0, 0.0) if self.figure == "wer" else (0.0, 1.0)}

    @property
    def reference_slopes(self) -> dict[str, tuple[float, float]]:
        """Minus the limit's derivatives by the reference's own figures: both rates hang on the same utterances."""
        if self.reference is None:
            return {}
        # Recall is 1 less the share missed: the limit falls as the reference misses more.
        return {self.domain: (self.bound, 0.0) if self.figure == "wer" else (0.0, self.bound)}


def parse_constraint(text: str, domains: Sequence[str]) -> Constraint:
    """Read one constraint; ``domains`` are those it may name.

    Raises:
        ConfigError: it cannot be read, or names another domain.
    """
    match = _CONSTRAINT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"the constraint '{text}' cannot be read: write it as 'general.wer <= 1.05 * base', 'medical.wer <= 1.1 * expert' or "
            "'general.wer <= 0.2' (a fraction, not per cent), and of term recall as 'medical.terms >= 0.9'."
        )
    if (match["figure"] == "wer") != (match["sign"] == "<="):
        raise ConfigError(f"the constraint '{text}' bounds the wrong side: write '.wer <=' and '.terms >='.")
    domain = match["domain"]
    if domain not in domains:
        raise ConfigError(f"the constraint '{text}' names the unknown domain '{domain}'; {suggest(domain, domains)}.")
    figure: Figure = "wer" if match["figure"] == "wer" else "terms"
    if match["limit"] is not None:
        return Constraint(text.strip(), domain, float(match["limit"]), None, figure)
    reference: Reference = "base" if "base" in (match["of"], match["bare"]) else "expert"
    return Constraint(text.strip(), domain, float(match["factor"] or match["after"] or 1.0), reference, figure)
