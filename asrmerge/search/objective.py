"""What a search minimises: the mean of the target domains' word error rates, under constraints on any domain's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from asrmerge.errors import ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.candidate import CandidateError
from asrmerge.validation import suggest

Counts = Mapping[str, ErrorCounts]  # domain → pooled counts

_NUMBER = r"(?P<{}>\d+(?:\.\d*)?|\.\d+)"
_CONSTRAINT = re.compile(
    rf"(?P<domain>\S+)\.wer\s*<=\s*(?:{_NUMBER.format('factor')}\s*\*\s*base|base(?:\s*\*\s*{_NUMBER.format('after')})?"
    rf"|{_NUMBER.format('limit')})"
)
_TOLERANCE = 1e-12  # so that a product's rounding breaks no constraint


@dataclass(frozen=True)
class Constraint:
    """``domain``'s WER must not exceed ``bound``, or ``bound`` times the base's own; WERs are fractions."""

    text: str
    domain: str
    bound: float
    relative: bool

    def limit(self, base: Counts) -> float:
        """The highest WER allowed, where the base has the counts ``base``."""
        return self.bound * base[self.domain].wer if self.relative else self.bound


@dataclass(frozen=True)
class Judgement:
    """A candidate's figures. Ranks order candidates, best lowest: every feasible one before every other."""

    objective: float
    excesses: tuple[float, ...] = ()  # WER minus limit of each constraint; negative where there is room

    @property
    def excess(self) -> float:
        """WER above the limits, summed over the constraints."""
        return math.fsum(value for value in self.excesses if value > _TOLERANCE)

    @property
    def feasible(self) -> bool:
        """Whether no constraint is broken."""
        return self.excess == 0

    @property
    def rank(self) -> tuple[float, float]:
        return (self.excess, self.objective)


@dataclass(frozen=True)
class Objective:
    """Macro-average WER over ``targets``: pooled inside each domain, all domains alike."""

    targets: tuple[str, ...]
    watched: tuple[str, ...] = ()  # domains that are evaluated but not tuned for
    constraints: tuple[Constraint, ...] = ()

    @classmethod
    def parse(cls, targets: Sequence[str], watched: Sequence[str] = (), constraints: Iterable[str] = ()) -> Objective:
        """Read constraints such as ``general.wer <= 1.05 * base`` or ``general.wer <= 0.2``.

        Raises:
            ConfigError: no targets, a constraint that cannot be read, or one on a domain that is not evaluated.
        """
        if not targets:
            raise ConfigError("a search needs at least one target domain: name one.")
        extra = tuple(name for name in watched if name not in targets)
        known = (*targets, *extra)
        return cls(tuple(targets), extra, tuple(parse_constraint(text, known) for text in constraints))

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain to evaluate, targets first."""
        return (*self.targets, *self.watched)

    def judge(self, counts: Counts, base: Counts) -> Judgement:
        """The figures of a candidate with ``counts``, where the base has ``base``.

        Raises:
            SearchError: a domain was not evaluated.
            CandidateError: a WER is NaN or infinite.
        """
        missing = [name for name in self.domains if name not in counts]
        if missing:
            raise SearchError(f"the domain '{missing[0]}' was not evaluated: give its validation manifest.")
        for name in self.domains:
            if not math.isfinite(counts[name].wer):
                raise CandidateError(f"the WER of '{name}' is {counts[name].wer}.")
        return Judgement(
            objective=math.fsum(counts[name].wer for name in self.targets) / len(self.targets),
            excesses=tuple(counts[one.domain].wer - one.limit(base) for one in self.constraints),
        )


def parse_constraint(text: str, domains: Sequence[str]) -> Constraint:
    """Read one constraint; ``domains`` are those it may name.

    Raises:
        ConfigError: it cannot be read, or names another domain.
    """
    match = _CONSTRAINT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"the constraint '{text}' cannot be read: write it as 'general.wer <= 1.05 * base' or 'general.wer <= 0.2' "
            "(a fraction, not per cent)."
        )
    domain = match["domain"]
    if domain not in domains:
        raise ConfigError(f"the constraint '{text}' names the unknown domain '{domain}'; {suggest(domain, domains)}.")
    if match["limit"] is not None:
        return Constraint(text.strip(), domain, float(match["limit"]), relative=False)
    return Constraint(text.strip(), domain, float(match["factor"] or match["after"] or 1.0), relative=True)
