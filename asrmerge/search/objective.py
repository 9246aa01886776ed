"""What a search minimises: one number made of the target domains' rates, under constraints on any domain's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from asrmerge.errors import ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.candidate import CandidateError
from asrmerge.search.constraints import Constraint, Counts, References, parse_constraint
from asrmerge.search.counts import missed_share
from asrmerge.search_settings import ObjectiveSettings
from asrmerge.validation import suggest

__all__ = ["Constraint", "Counts", "Judgement", "Objective", "ObjectiveSettings", "References", "parse_constraint"]

Slopes = dict[str, tuple[float, float]]  # domain → ∂/∂(WER), ∂/∂(share of terms missed)
_TOLERANCE = 1e-12  # so that a product's rounding breaks no constraint


@dataclass(frozen=True)
class Judgement:
    """A candidate's figures. Ranks order candidates, best lowest: every feasible one before every other."""

    objective: float
    excesses: tuple[float, ...] = ()  # of each constraint; negative where there is room
    further: tuple[float, ...] = ()  # the other objectives, where there are several

    @property
    def excess(self) -> float:
        """Above the limits, summed over the constraints."""
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
    """A figure over ``targets``: pooled inside each domain; ``further`` are minimised beside it."""

    targets: tuple[str, ...]
    watched: tuple[str, ...] = ()  # domains that are evaluated but not tuned for
    constraints: tuple[Constraint, ...] = ()
    settings: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    further: tuple[ObjectiveSettings, ...] = ()

    @classmethod
    def parse(
        cls,
        targets: Sequence[str],
        watched: Sequence[str] = (),
        constraints: Iterable[str] = (),
        settings: ObjectiveSettings | None = None,
        *,
        further: Sequence[ObjectiveSettings] = (),
        experts: Sequence[str] | None = None,
        known_terms: Iterable[str] | None = None,
    ) -> Objective:
        """Read constraints such as ``general.wer <= 1.05 * base``, and check that everything named is there.

        Args:
            experts: names; what is relative to an expert needs one of the domain's name. Unchecked unless given.
            known_terms: domains whose terms are known. Unchecked unless given.

        Raises:
            ConfigError: no targets, a constraint that cannot be read, or something on a domain that is not evaluated.
        """
        if not targets:
            raise ConfigError("a search needs at least one target domain: name one.")
        extra = tuple(name for name in watched if name not in targets)
        known = (*targets, *extra)
        found = cls(
            tuple(targets),
            extra,
            tuple(parse_constraint(text, known) for text in constraints),
            settings or ObjectiveSettings(),
            tuple(further),
        )
        found._check(experts, None if known_terms is None else set(known_terms))
        return found

    @property
    def domains(self) -> tuple[str, ...]:
        """Every domain to evaluate, targets first."""
        return (*self.targets, *self.watched)

    @property
    def needs_base(self) -> bool:
        """Whether a limit is relative to the base."""
        return any(one.reference == "base" for one in self.constraints)

    @property
    def needs_experts(self) -> bool:
        """Whether anything is relative to the domains' own experts."""
        relative = any(one.relative for one in (self.settings, *self.further))
        return relative or any(one.reference == "expert" for one in self.constraints)

    def judge(self, counts: Counts, references: References) -> Judgement:
        """The figures of a candidate with ``counts``.

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
            objective=self._value(self.settings, counts, references),
            excesses=tuple(one.excess(counts, references) for one in self.constraints),
            further=tuple(self._value(one, counts, references) for one in self.further),
        )

    def value(self, counts: Counts, references: References) -> float:
        """The first objective alone, which needs the targets only."""
        return self._value(self.settings, counts, references)

    def slopes(self, counts: Counts, references: References) -> Slopes:
        """∂objective/∂(WER) and ∂objective/∂(share of terms missed) of every target; the references' own figures held fixed."""
        settings = self.settings
        shares = self._shares(settings, self._figures(settings, counts, references))
        return {
            name: (share * (1 - settings.term_weight) / _home(settings, name, references), share * settings.term_weight)
            for name, share in shares.items()
        }

    def _value(self, settings: ObjectiveSettings, counts: Counts, references: References) -> float:
        figures = self._figures(settings, counts, references)
        if settings.kind == "worst":
            sharp, highest = settings.sharpness, max(figures.values())
            mean = math.fsum(math.exp(sharp * (figure - highest)) for figure in figures.values()) / len(figures)
            return highest + math.log(mean) / sharp
        if settings.kind == "macro":
            return math.fsum(figures.values()) / len(figures)
        return math.fsum(share * figures[name] for name, share in self._shares(settings, figures).items())

    def _figures(self, settings: ObjectiveSettings, counts: Counts, references: References) -> dict[str, float]:
        weight = settings.term_weight
        return {
            name: (1 - weight) * counts[name].wer / _home(settings, name, references) + weight * missed_share(counts[name])
            for name in self.targets
        }

    def _shares(self, settings: ObjectiveSettings, figures: Mapping[str, float]) -> dict[str, float]:
        """∂value/∂figure of every target."""
        if settings.kind == "weighted":
            total = math.fsum(settings.traffic.values())
            return {name: settings.traffic.get(name, 0.0) / total for name in self.targets}
        if settings.kind == "macro":
            return dict.fromkeys(self.targets, 1 / len(self.targets))
        highest = max(figures.values())
        powers = {name: math.exp(settings.sharpness * (figure - highest)) for name, figure in figures.items()}
        total = math.fsum(powers.values())
        return {name: power / total for name, power in powers.items()}

    def _check(self, experts: Sequence[str] | None, known_terms: set[str] | None) -> None:
        for settings in (self.settings, *self.further):
            for name in settings.traffic:
                if name not in self.targets:
                    raise ConfigError(f"the traffic of the objective names '{name}'; {suggest(name, self.targets)}.")
            if settings.term_weight and known_terms is not None and not known_terms & set(self.targets):
                raise ConfigError("the objective weighs terms, and no target domain has any: give each a file of terms.")
        needing = [one.domain for one in self.constraints if one.reference == "expert"]
        if any(one.relative for one in (self.settings, *self.further)):
            needing += self.targets
        for name in needing:
            if name not in self.targets or (experts is not None and name not in experts):
                raise ConfigError(f"there is no expert called '{name}', which the objective is relative to: name one so.")
        for one in self.constraints:
            if one.figure == "terms" and known_terms is not None and one.domain not in known_terms:
                raise ConfigError(f"the constraint '{one.text}' needs the terms of '{one.domain}': give a file of terms.")


def _home(settings: ObjectiveSettings, name: str, references: References) -> float:
    """What a domain's WER is divided by: its expert's, of one without errors that of one error."""
    if not settings.relative:
        return 1.0
    counts: ErrorCounts = references.home[name]
    return max(counts.wer, 1 / max(counts.words, 1))
