"""The search: fixed candidates, greedy soup, then coefficients proposed from what is known; each trial is kept once finished."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asrmerge.errors import ConfigError, SearchError
from asrmerge.search.candidate import (
    DEFAULT_CURVE,
    SUM,
    Candidate,
    CandidateError,
    check_methods,
    curve_point,
    fixed_candidates,
    scaled_sum,
    soup_of,
)
from asrmerge.search.history import History, Record
from asrmerge.search.objective import Counts, Objective
from asrmerge.search.proposals import MANY, Observation, Space, propose
from asrmerge.search.result import CurvePoint, SearchResult, Trial, judged
from asrmerge.search.soup import soup_steps

logger = logging.getLogger(__name__)

Evaluate = Callable[[Candidate], Counts]


def search_coefficients(
    evaluate: Evaluate,
    *,
    experts: Sequence[str],
    targets: Sequence[str],
    watched: Sequence[str] = (),
    constraints: Iterable[str] = (),
    trials: int = 40,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    curve: Sequence[float] = DEFAULT_CURVE,
    methods: Sequence[str] = (SUM,),
    storage: Path,
    key: str = "",
    on_trial: Callable[[Trial], None] | None = None,
) -> SearchResult:
    """Search the coefficient of each expert's task vector for the lowest macro-average WER.

    First come the fixed candidates, then the steps of a greedy soup from the best single expert. Of several methods, the λ
    curves with equal coefficients choose the one whose coefficients are searched.

    Every finished trial is in ``storage`` before the next begins. The same call after a kill repeats none of them and ends with
    the result of an uninterrupted one; with more ``trials`` it goes on from where the shorter one ended.

    Args:
        evaluate: pooled counts per domain of a candidate, all of targets and watched; must be deterministic.
        experts: names.
        targets: domains whose mean WER is minimised.
        watched: further domains that are evaluated, for constraints and for the report.
        constraints: such as ``general.wer <= 1.05 * base``; a candidate that breaks one ranks behind all that don't.
        trials: candidates in all; the fixed ones (base, uniform, experts, curve) are evaluated even if there are more of them.
        bounds: of every coefficient.
        curve: the λ of base + λ Σ τ to evaluate, and of each further method.
        methods: whose weights multiply the task vectors.
        storage: Optuna's journal file.
        key: hash of whatever else decides what ``evaluate`` returns: models, audio, normaliser, precision.
        on_trial: called after each trial in order, first with those found in ``storage``.

    Raises:
        ConfigError: an argument cannot be used.
        SearchError: ``storage`` belongs to another search, or no candidate could be evaluated.
    """
    objective = Objective.parse(targets, watched, constraints)
    _check(experts, bounds, curve, seed)
    check_methods(methods)
    plan = _Plan(objective, tuple(experts), tuple(sorted(set(map(float, curve)))), tuple(dict.fromkeys(methods)), seed, bounds)
    with History(storage, plan.identity(key), bounds) as history:
        done: list[Trial] = []
        for record in history.records()[: max(trials, len(plan.fixed))]:
            _add(done, plan.trial(record, done), on_trial)
        while (candidate := plan.next_candidate(done, trials)) is not None:
            trial = plan.trial(_evaluated(evaluate, candidate, objective), done)
            history.add(Record(candidate, trial.counts, trial.error), trial.objective)
            _add(done, trial, on_trial)
    if all(trial.judgement is None for trial in done):
        raise SearchError(f"no candidate could be evaluated; the first failed because {done[0].error}")
    return SearchResult(plan.experts, objective, seed, bounds, tuple(done), plan.curve_points(done))


@dataclass(frozen=True)
class _Plan:
    """What to try next, from what is known: a function of these fields and of the finished trials, of nothing else."""

    objective: Objective
    experts: tuple[str, ...]
    curve: tuple[float, ...]
    methods: tuple[str, ...]
    seed: int
    bounds: tuple[float, float]

    @property
    def fixed(self) -> tuple[Candidate, ...]:
        return fixed_candidates(self.experts, self.curve, self.methods)

    def identity(self, key: str) -> Mapping[str, Any]:
        """What must be the same for a storage to be continued."""
        return {
            "experts": list(self.experts),
            "targets": list(self.objective.targets),
            "watched domains": list(self.objective.watched),
            "constraints": [one.text for one in self.objective.constraints],
            "bounds": list(self.bounds),
            "curve": list(self.curve),
            "methods": list(self.methods),
            "seed": self.seed,
            "models, audio or settings": key,
        }

    def trial(self, record: Record, done: Sequence[Trial]) -> Trial:
        base = done[0].counts if done else record.counts
        if base is None and any(one.relative for one in self.objective.constraints):
            error = done[0].error if done else record.error
            raise SearchError(f"the base could not be evaluated, so a constraint relative to it has no limit: {error}")
        return judged(len(done), record.candidate, record.counts, record.error, self.objective, base)

    def next_candidate(self, done: Sequence[Trial], trials: int) -> Candidate | None:
        """``None`` when the budget is spent, or nothing is left to try."""
        number, fixed = len(done), self.fixed
        if number < len(fixed):
            return fixed[number]
        if number >= trials or all(trial.judgement is None for trial in done):
            return None
        if (soup := self._next_soup(done)) is not None:
            return soup
        space = Space(len(self.experts), *self.bounds)
        method = self._method(done[: len(fixed)])
        # Only merges by the chosen method say something about its coefficients; the base is one by any.
        points = [trial.candidate.point(method) for trial in done]
        known = [(trial, tuple(point[name] for name in self.experts)) for trial, point in zip(done, points, strict=True) if point]
        observations = [(trial, Observation(point, trial.judgement)) for trial, point in known if trial.judgement is not None]
        proposed = propose(
            space,
            fixed=[one for trial, one in observations if trial.number < len(fixed)],
            found=[one for trial, one in observations if trial.number >= len(fixed)],
            tried={space.clip(point) for _, point in known},
            seed=_trial_seed(self.seed, number),
        )
        if proposed is None:
            return None
        label = f"search {number}" if method == SUM else f"search {number}, {method}"
        return scaled_sum(label, dict(zip(self.experts, proposed, strict=True)), method=method)

    def _next_soup(self, done: Sequence[Trial]) -> Candidate | None:
        """The next step of the greedy soup that was not evaluated yet; ``None`` when it is complete."""
        losses = {trial.candidate.key(): _loss(trial) for trial in done}
        alone = {name: losses[soup_of([name], self.experts).key()] for name in self.experts}
        steps = soup_steps({name: loss for name, loss in alone.items() if not math.isnan(loss)} or alone)
        try:
            candidate = soup_of(next(steps), self.experts)
            while candidate.key() in losses:
                candidate = soup_of(steps.send(losses[candidate.key()]), self.experts)
        except StopIteration:
            return None
        return candidate

    def _method(self, fixed: Sequence[Trial]) -> str:
        """That of the best merge with equal coefficients; the first method if none could be evaluated."""
        equal = [
            (trial.judgement.rank, trial.number, method)
            for method in self.methods
            for trial in fixed
            if trial.judgement is not None and trial.candidate.kind in ("uniform", "curve") and trial.candidate.point(method)
        ]
        return min(equal)[2] if equal else self.methods[0]

    def curve_points(self, done: Sequence[Trial]) -> tuple[CurvePoint, ...]:
        """The curve from λ = 0, in order."""
        numbers = {trial.candidate.key(): trial.number for trial in done[: len(self.fixed)]}
        scales = sorted({0.0, 1 / len(self.experts), *self.curve})
        return tuple(CurvePoint(scale, numbers[curve_point(self.experts, scale).key()]) for scale in scales)


def _loss(trial: Trial) -> float:
    """One number that orders trials as their judgements do; NaN for a failed one."""
    if trial.judgement is None:
        return math.nan
    return trial.judgement.objective if trial.judgement.feasible else MANY + trial.judgement.excess


def _trial_seed(seed: int, number: int) -> int:
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _evaluated(evaluate: Evaluate, candidate: Candidate, objective: Objective) -> Record:
    """The candidate's counts; a failure that is the candidate's own becomes its record."""
    try:
        counts = evaluate(candidate)
        objective.judge(counts, counts)
    except (CandidateError, ArithmeticError) as error:
        logger.warning("%s failed: %s", candidate.label, error)
        return Record(candidate, None, str(error) or type(error).__name__)
    return Record(candidate, {name: counts[name] for name in objective.domains})


def _add(done: list[Trial], trial: Trial, on_trial: Callable[[Trial], None] | None) -> None:
    done.append(trial)
    if on_trial is not None:
        on_trial(trial)


def _check(experts: Sequence[str], bounds: tuple[float, float], curve: Sequence[float], seed: int) -> None:
    if not experts:
        raise ConfigError("a search needs at least one expert: name one.")
    twice = sorted({name for name in experts if list(experts).count(name) > 1})
    if twice:
        raise ConfigError(f"the expert '{twice[0]}' is named twice: give each expert its own name.")
    if seed < 0:
        raise ConfigError(f"the seed of the search is {seed}: give a number from 0 on.")
    low, high = bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"the bounds of the coefficients are {low} and {high}: give two finite numbers, the lower first.")
    for scale in curve:
        if not math.isfinite(scale):
            raise ConfigError(f"the λ curve holds {scale}: give finite numbers.")
