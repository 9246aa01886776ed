"""A race of candidates over growing blocks of the validation audio; what cannot win is dropped, and its trial kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asrmerge.search.candidate import Candidate
from asrmerge.search.constraints import Constraint
from asrmerge.search.objective import Judgement
from asrmerge.search.outcome import Scores
from asrmerge.search.racing import Difference, beaten_level, difference, excess_spread, expected_counts
from asrmerge.search.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """A candidate after so many looks."""

    candidate: Candidate
    judgement: Judgement
    breaks: bool  # a constraint, beyond what chance explains

    @property
    def rank(self) -> tuple[bool, float, float]:
        excess = self.judgement.excess
        return (self.breaks, excess if self.breaks else 0.0, self.judgement.objective + excess)


class Race:
    """Candidates that hear the same audio, block by block.

    In each look every candidate is tested against the leader (see :mod:`~asrmerge.search.racing`); then at most so many stay, by
    rank. References, such as the base where a constraint is relative to it, hear everything and are never dropped.
    """

    def __init__(self, session: Session, *, level: float = 0.05) -> None:
        """``level``: the probability with which the best is dropped by mistake."""
        self._session, self._level = session, level
        self._finished: set[tuple[object, ...]] = set()

    def run(
        self,
        candidates: Iterable[Candidate],
        keep: Sequence[int],
        *,
        champion: Candidate | None = None,
        references: Sequence[Candidate] = (),
    ) -> list[Candidate]:
        """Race over all looks; the survivors, which have heard everything, best first.

        Args:
            keep: after each look, how many stay at most; the last stands for all further looks.
            champion: the best of an earlier race, which has heard everything: a rival in every look, and no candidate.
            references: what must hear every look beside them.
        """
        session = self._session
        alive = list({one.key(): one for one in candidates}.values())
        fixed = {one.key() for one in references}
        for look in range(1, session.plan.looks + 1):
            alive = self._affordable(alive, references, look)
            session.hear([*references, *alive], look)
            alive = self._drop_failed(alive)
            standings = self.standings(alive, look)
            standings = self._drop_beaten(standings, look, fixed, champion)
            alive = [one.candidate for one in standings]
            most = keep[min(look, len(keep)) - 1]
            if look < session.plan.looks and len(alive) > most:
                for one in alive[most:]:
                    self._finish(one, f"left behind: {most} of {len(alive)} candidates went on after {self._heard(look)}", fixed)
                alive = alive[:most]
            if not alive:
                break
        return alive

    def standings(self, candidates: Iterable[Candidate], looks: int) -> list[Standing]:
        """Best first, after so many looks."""
        session = self._session
        references = session.references(looks)
        found = []
        for one in candidates:
            heard = session.heard(one, looks)
            counts = expected_counts(heard, session.totals)
            judgement = session.objective.judge(counts, references)
            breaks = False
            for constraint, excess in zip(session.objective.constraints, judgement.excesses, strict=True):
                spread = self._spread(constraint, excess, heard, looks)
                everything = looks == session.plan.looks
                breaks |= excess > 0 and (everything or spread.p_value < self._level / session.plan.looks)
            found.append(Standing(one, judgement, breaks and not judgement.feasible))
        return sorted(found, key=lambda standing: standing.rank)

    def against(self, one: Candidate, other: Candidate, looks: int) -> Difference:
        """The objective of ``one`` less that of ``other`` on the same looks."""
        session = self._session
        references = session.references(looks)
        heard = [session.heard(candidate, looks) for candidate in (one, other)]
        counts = [expected_counts(scores, session.totals) for scores in heard]
        values = [session.objective.judge(found, references).objective for found in counts]
        slopes = tuple(session.objective.slopes(found, references) for found in counts)
        return difference(values[0] - values[1], heard[0], heard[1], (slopes[0], slopes[1]), session.totals)

    def _spread(self, constraint: Constraint, excess: float, heard: Scores, looks: int) -> Difference:
        """Of a limit relative to the base, which hears the same utterances, the spread of the difference."""
        session = self._session
        if constraint.reference != "base":
            return excess_spread(excess, heard, constraint.slopes, session.totals)
        base = session.heard(session.reference_candidates[0], looks)
        return difference(excess, heard, base, (constraint.slopes, constraint.reference_slopes), session.totals)

    def _drop_beaten(
        self, standings: list[Standing], look: int, fixed: set[tuple[object, ...]], champion: Candidate | None
    ) -> list[Standing]:
        rivals = [*standings, *([] if champion is None else self.standings([champion], look))]
        if not rivals:
            return standings
        leader = min(rivals, key=lambda one: one.rank)
        if champion is None:  # else what was better on all of the audio stays the best until this race is over
            self._session.lead(leader.candidate, look)
        level = beaten_level(self._level, self._session.plan.looks, len(rivals) - 1)
        kept = []
        for one in standings:
            if one is leader:
                kept.append(one)
                continue
            if one.breaks and not leader.breaks:
                self._finish(one.candidate, f"breaks a constraint after {self._heard(look)}", fixed)
                continue
            p_value = self.against(one.candidate, leader.candidate, look).p_value if not leader.breaks else 1.0
            if p_value < level and look < self._session.plan.looks:
                self._finish(
                    one.candidate, f"beaten by {leader.candidate.label} after {self._heard(look)} (p = {p_value:.2g})", fixed
                )
            else:
                kept.append(one)
        return kept

    def _drop_failed(self, alive: list[Candidate]) -> list[Candidate]:
        for one in alive:
            if self._session.error_of(one) is not None:
                self._finish(one, "", set())
        return [one for one in alive if self._session.error_of(one) is None]

    def _affordable(self, alive: list[Candidate], references: Sequence[Candidate], look: int) -> list[Candidate]:
        """As many, from the first, as the budget lets hear everything from here on; the first always."""
        session = self._session
        for count in range(len(alive), 1, -1):
            rest = session.cost(alive[:1], session.plan.looks) - session.cost(alive[:1], look)
            if session.affords(utterances=session.cost([*references, *alive[:count]], look) + rest):
                break
        else:
            count = 1
        for one in alive[count:]:
            self._finish(one, "left behind: the budget ends", {reference.key() for reference in references})
        return alive[:count]

    def _finish(self, candidate: Candidate, note: str, fixed: set[tuple[object, ...]]) -> None:
        if (
            candidate.key() in fixed
            or candidate.key() in self._finished
            or (self._session.looks_of(candidate) == 0 and not (self._session.error_of(candidate)))
        ):
            return
        self._finished.add(candidate.key())
        trial = self._session.finish(candidate, note=note)
        logger.debug("%s: %s", trial.candidate.label, note or trial.error)

    def _heard(self, looks: int) -> str:
        return f"{sum(self._session.plan.size(look) for look in range(looks))} utterances"
