"""What a strategy is given: it lets candidates hear the audio, keeps their trials, and knows what may still be spent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from asrmerge.errors import SearchError
from asrmerge.search.blocks import AudioPlan
from asrmerge.search.budget import Spent
from asrmerge.search.candidate import Candidate, fixed_candidates
from asrmerge.search.history import History, Record
from asrmerge.search.objective import Counts, Objective, References
from asrmerge.search.outcome import Hear, Scores, joined
from asrmerge.search.racing import Totals, expected_counts
from asrmerge.search.result import LossRanking, Point, Trial
from asrmerge.search.space import Space
from asrmerge.search_settings import Budget

Key = tuple[Any, ...]
Losses = Callable[[Sequence[tuple[Candidate, int]]], list["Mapping[str, tuple[float, ...]] | None"]]


@dataclass(frozen=True)
class Leader:
    """The best candidate so far: its objective and WERs (fractions, by domain), and in words what it has heard."""

    candidate: Candidate
    objective: float
    wer: Mapping[str, float]
    heard: str


class Session:
    """One course of a search. What was heard before, by this process or by one that was killed, is not heard again.

    Attributes:
        losses: −log p(text | audio) of candidates in a look, by domain and utterance; None where the models have none.
        trials: the finished ones, in order.
        ranking: how well the loss ranked candidates; for a strategy to say.
    """

    def __init__(
        self,
        *,
        hear: Hear,
        plan: AudioPlan,
        totals: Mapping[str, Totals],
        space: Space,
        objective: Objective,
        experts: Sequence[str],
        history: History,
        budget: Budget,
        seed: int,
        losses: Losses | None = None,
        on_trial: Callable[[Trial], None] | None = None,
        on_leader: Callable[[Leader], None] | None = None,
        on_spent: Callable[[Spent], None] | None = None,
    ) -> None:
        self.plan, self.totals, self.space, self.objective = plan, totals, space, objective
        self.experts, self.budget, self.seed, self.losses = tuple(experts), budget, seed, losses
        self._hear, self._history, self._on_trial = hear, history, on_trial
        self._on_leader, self._on_spent = on_leader, on_spent
        self._leader: tuple[Key, int] | None = None
        self._leading: tuple[float, float] | None = None  # the rank of one that has heard everything
        self.trials: list[Trial] = []
        self.ranking: LossRanking | None = None
        self._spent = Spent()
        self._began = time.monotonic()
        self._marked = self._began
        self._before = history.seconds
        self._scores: dict[Key, list[Scores]] = {}
        self._errors: dict[Key, str] = {}

    @property
    def spent(self) -> Spent:
        """So far; minutes are those of interrupted runs, too."""
        return Spent(
            self._spent.candidates, self._spent.utterances, self._spent.losses, self._before + time.monotonic() - self._began
        )

    def affords(self, *, candidates: int = 0, utterances: int = 0) -> bool:
        """Whether the budget holds so much more."""
        return self.spent.fits(self.budget, candidates=candidates, utterances=utterances)

    def cost(self, candidates: Iterable[Candidate], looks: int) -> int:
        """Utterances still to be decoded until these candidates have heard so many looks."""
        missing = ((one.key(), look) for one in candidates for look in range(self.looks_of(one), looks))
        return sum(self.plan.size(look) for _, look in dict.fromkeys(missing))

    def looks_of(self, candidate: Candidate) -> int:
        """How many looks it has heard."""
        return len(self._scores.get(candidate.key(), ()))

    def error_of(self, candidate: Candidate) -> str | None:
        """Why it cannot be evaluated, where that is so."""
        return self._errors.get(candidate.key())

    def hear(self, candidates: Iterable[Candidate], looks: int) -> None:
        """Let every candidate hear the audio up to so many looks; all that is missing at once, so that workers share it."""
        wanted = {one.key(): one for one in candidates if one.key() not in self._errors}
        begun = [key for key in wanted if key not in self._scores]
        self._spent = self._spent.plus(candidates=len(begun), utterances=self.cost(wanted.values(), looks))
        asked = [(one, look) for one in wanted.values() for look in range(self.looks_of(one), looks)]
        for (candidate, look), outcome in zip(asked, self._hear(asked) if asked else [], strict=True):
            key = candidate.key()
            if outcome.scores is None:
                self._errors.setdefault(key, outcome.error or "it failed")
                self._scores.setdefault(key, [])
            elif len(self._scores.setdefault(key, [])) == look:
                self._scores[key].append(outcome.scores)
        if asked and self._on_spent is not None:
            self._on_spent(self.spent)

    def lead(self, candidate: Candidate, looks: int) -> None:
        """Say which candidate is the best so far; passed on where it is another, or has heard more, than before."""
        heard = sum(self.plan.size(look) for look in range(looks))
        if (candidate.key(), heard) == self._leader or self._on_leader is None:
            return
        self._leader = (candidate.key(), heard)
        counts = self.counts(candidate, looks)
        judgement = self.objective.judge(counts, self.references(looks))
        whole = heard == self.plan.total
        self._leading = judgement.rank if whole else None
        share = "all of the audio" if whole else f"on {heard} of {self.plan.total} utterances"
        self._on_leader(Leader(candidate, judgement.objective, {name: found.wer for name, found in counts.items()}, share))

    def count_losses(self, utterances: int) -> None:
        """Note that the loss of so many utterances was computed."""
        self._spent = self._spent.plus(losses=utterances)

    def heard(self, candidate: Candidate, looks: int) -> Scores:
        """The scores of the first looks, utterance by utterance; of a candidate that has heard them."""
        return joined(self._scores[candidate.key()][:looks])

    def counts(self, candidate: Candidate, looks: int) -> Counts:
        """Of the first looks, with the rates expected on all of the audio; of a candidate that has heard them."""
        return expected_counts(self.heard(candidate, looks), self.totals)

    def references(self, looks: int) -> References:
        """The base, and each expert at home, on the first looks: as far as they have heard them."""
        base, *experts = self.reference_candidates
        home = {}
        for name, expert in zip(self.experts, experts, strict=True):
            if name in self.objective.targets and self.looks_of(expert) >= looks:
                home[name] = self.counts(expert, looks)[name]
        return References(base=self.counts(base, looks) if self.looks_of(base) >= looks else {}, home=home)

    @cached_property
    def reference_candidates(self) -> tuple[Candidate, ...]:
        """The base and each expert alone, in the order of the experts."""
        found = {one.label: one for one in fixed_candidates(self.experts, ()) if one.kind in ("base", "expert")}
        return (found["base"], *(found[f"expert {name}"] for name in self.experts))

    def evaluate(self, candidate: Candidate, point: Point | None = None) -> Trial:
        """Hear all of the audio, and keep the trial."""
        self.hear([candidate], self.plan.looks)
        return self.finish(candidate, point=point)

    def finish(self, candidate: Candidate, *, point: Point | None = None, note: str = "") -> Trial:
        """Keep what is known of a candidate as its trial; ``note`` says why it has not heard all of the audio."""
        trial = self._trial(candidate, note, point)
        now = time.monotonic()
        record = Record(candidate, trial.counts, trial.error, trial.heard, note, point, now - self._marked)
        self._marked = now
        self._history.keep(record, trial.judgement)
        self._add(trial)
        return trial

    def resume(self, records: Iterable[Record]) -> None:
        """Take finished trials that a strategy goes on from; what they heard is not decoded again.

        Pooled counts say everything where a domain counts as one utterance; else the cache of transcripts is asked.
        """
        for record in records:
            key = record.candidate.key()
            if record.counts is None:
                self._errors[key] = record.error or "it failed"
                self._scores.setdefault(key, [])
                self._spent = self._spent.plus(candidates=1)
            elif all(total.utterances == 1 for total in self.totals.values()) and self.plan.looks == 1:
                self._scores[key] = [{name: (counts,) for name, counts in record.counts.items()}]
                self._spent = self._spent.plus(candidates=1, utterances=self.plan.total)
            else:
                self.hear([record.candidate], self.plan.looks)
            self._add(self._trial(record.candidate, record.note, record.point))

    def _trial(self, candidate: Candidate, note: str, point: Point | None) -> Trial:
        number, error = len(self.trials), self.error_of(candidate)
        if error is not None:
            if candidate.kind == "base" and self.objective.needs_base:
                raise SearchError(f"the base could not be evaluated, so what is relative to it has no limit: {error}")
            return Trial(number, candidate, None, None, error, note=note, point=point)
        looks = self.looks_of(candidate)
        counts = self.counts(candidate, looks)
        heard = sum(self.plan.size(look) for look in range(looks))
        judgement = self.objective.judge(counts, self.references(looks))
        complete = looks == self.plan.looks
        return Trial(number, candidate, counts, judgement, None, heard, complete, note, point=point)

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        best = min(self.trials, key=lambda one: one.rank)
        if best.complete and best.judgement is not None and (self._leading is None or best.judgement.rank < self._leading):
            self.lead(best.candidate, self.plan.looks)  # one whose trial is not finished yet may be better
        if self._on_trial is not None:
            self._on_trial(trial)
