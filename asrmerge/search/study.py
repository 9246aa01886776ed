"""A whole search: what every one evaluates, then what its strategy names; each trial is kept once finished."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asrmerge.errors import ConfigError, SearchError
from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.blocks import ALL_AT_ONCE, AudioPlan, plan_audio
from asrmerge.search.budget import Spent
from asrmerge.search.candidate import (
    DEFAULT_CURVE,
    SUM,
    Candidate,
    CandidateError,
    check_methods,
    curve_point,
    fixed_candidates,
    soup_of,
)
from asrmerge.search.confirming import confirm, measured_with, session_optimism
from asrmerge.search.history import History
from asrmerge.search.objective import Counts, Objective
from asrmerge.search.outcome import Asked, Hear, Outcome
from asrmerge.search.proposals import MANY
from asrmerge.search.racing import Totals
from asrmerge.search.registry import Chosen, choose_strategy
from asrmerge.search.result import CurvePoint, SearchResult, Trial
from asrmerge.search.session import Leader, Losses, Session
from asrmerge.search.soup import soup_steps
from asrmerge.search.space import Space
from asrmerge.search.space_settings import make_space
from asrmerge.search_settings import Budget
from asrmerge.speech.manifest import Utterance

logger = logging.getLogger(__name__)

Evaluate = Callable[[Candidate], Counts]


@dataclass(frozen=True)
class Plan:
    """Everything that decides the course of a search, but what the models make of the audio.

    Attributes:
        curve: the λ of base + λ Σ τ, and of each further method with equal weights, that are evaluated whatever the strategy;
            only by strategies that do not race.
        soup: whether the greedy soup of the experts is, too; likewise.
    """

    experts: tuple[str, ...]
    space: Space
    objective: Objective
    strategy: Chosen
    budget: Budget
    seed: int = 0
    curve: tuple[float, ...] = ()
    soup: bool = True

    @property
    def fixed(self) -> tuple[Candidate, ...]:
        """The base, the uniform average, each expert alone, and the curves."""
        return fixed_candidates(self.experts, self.curve, [one.method for one in self.space.methods])

    @property
    def races(self) -> bool:
        """Whether the strategy hears the audio in growing blocks."""
        return bool(getattr(self.strategy.strategy, "races", False))

    def identity(self, key: str) -> dict[str, Any]:
        """What must be the same for a storage to be continued."""
        settings = [one.model_dump(mode="json") for one in (self.objective.settings, *self.objective.further)]
        return {
            "experts": list(self.experts),
            "targets": list(self.objective.targets),
            "watched domains": list(self.objective.watched),
            "constraints": [one.text for one in self.objective.constraints],
            "objective": settings,
            "space": self.space.to_json(),
            "curve": list(self.curve),
            "strategy": self.strategy.to_json(),
            "seed": self.seed,
            "models, audio or settings": key,
        }


def run_search(
    plan: Plan,
    hear: Hear,
    audio: AudioPlan,
    totals: Mapping[str, Totals],
    *,
    storage: Path | str,
    key: str = "",
    losses: Losses | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    on_leader: Callable[[Leader], None] | None = None,
    on_spent: Callable[[Spent], None] | None = None,
) -> SearchResult:
    """Search the best merge by its word errors on the validation audio.

    Every finished trial is in ``storage`` before the next begins. The same call after a kill repeats none of them and ends with
    the result of an uninterrupted one; with a larger budget it goes on from where the smaller one ended.

    Args:
        hear: the outcomes of candidates in the looks of ``audio``; must be deterministic.
        totals: of each domain's audio.
        storage: a journal file, or the URL of a database.
        key: hash of whatever else decides what ``hear`` returns: models, audio, normaliser, precision.
        losses: of candidates in looks, for strategies that use them.
        on_trial: called after each trial in order, first with those found in ``storage``.
        on_leader: called when another candidate is the best so far, or it has heard more, also before it has heard everything.
        on_spent: called whenever something has been decoded.

    Raises:
        ConfigError: the strategy cannot search the space.
        SearchError: ``storage`` belongs to another search, or no candidate could be evaluated.
    """
    chosen = plan.strategy
    chosen.strategy.check(plan.space, 1 + len(plan.objective.further), chosen.options)
    with History(storage, plan.identity(key), plan.space, 1 + len(plan.objective.further)) as history:
        session = Session(
            hear=hear,
            plan=audio,
            totals=totals,
            space=plan.space,
            objective=plan.objective,
            experts=plan.experts,
            history=history,
            budget=plan.budget,
            seed=plan.seed,
            losses=losses,
            on_trial=on_trial,
            on_leader=on_leader,
            on_spent=on_spent,
        )
        if not plan.races:
            most = math.inf if plan.budget.candidates is None else max(plan.budget.candidates, len(plan.fixed))
            session.resume(record for number, record in enumerate(history.records()) if number < most)
            for candidate in plan.fixed[len(session.trials) :]:
                session.evaluate(candidate)
            while plan.soup and _may_go_on(session) and (soup := _next_soup(plan.experts, session.trials)) is not None:
                session.evaluate(soup)
        if plan.races or _may_go_on(session):
            chosen.strategy.run(session, chosen.options)
    trials = tuple(session.trials)
    if all(trial.judgement is None for trial in trials):
        raise SearchError(f"no candidate could be evaluated; the first failed because {trials[0].error}")
    curve = () if plan.races else _curve_points(plan, trials)
    found = SearchResult(
        experts=plan.experts,
        objective=plan.objective,
        seed=plan.seed,
        space=plan.space.to_json(),
        trials=trials,
        curve=curve,
        strategy=chosen.to_json(),
        spent=session.spent,
        ranking=session.ranking,
    )
    best = found.best
    return replace(
        found,
        trials=measured_with(session, best),
        confirmed=confirm(session, best),
        optimism=session_optimism(session),
    )


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
    """Search the coefficient of each expert's task vector for the lowest macro-average WER, by the strategy ``surface``.

    Args:
        evaluate: pooled counts per domain of a candidate, all of targets and watched; must be deterministic.
        experts: names.
        targets: domains whose mean WER is minimised.
        watched: further domains that are evaluated, for constraints and for the report.
        constraints: such as ``general.wer <= 1.05 * base``; a candidate that breaks one ranks behind all that don't.
        trials: candidates in all; the fixed ones (base, uniform, experts, curve) are evaluated even if there are more of them.
        bounds: of every coefficient.
        curve: the λ of base + λ Σ τ to evaluate, and of each further method.
        methods: whose weights multiply the task vectors, or are shares.
        storage, key, on_trial: as of :func:`run_search`.

    Raises:
        ConfigError: an argument cannot be used.
        SearchError: as :func:`run_search`.
    """
    objective = Objective.parse(targets, watched, constraints)
    _check(experts, bounds, curve, seed)
    check_methods(methods)
    plan = Plan(
        experts=tuple(experts),
        space=make_space(list(dict.fromkeys(methods)), experts, bounds=bounds),
        objective=objective,
        strategy=choose_strategy("surface"),
        budget=Budget(candidates=max(1, trials)),
        seed=seed,
        curve=tuple(sorted(set(map(float, curve)))),
    )
    one = {name: [Utterance(name, Path(), 1.0, "", domain=name)] for name in objective.domains}
    totals = {name: Totals(1, 0) for name in objective.domains}

    def hear(asked: Asked) -> list[Outcome]:
        return [_evaluated(evaluate, candidate, objective) for candidate, _ in asked]

    audio = plan_audio(one, fractions=ALL_AT_ONCE)
    return run_search(plan, hear, audio, totals, storage=storage, key=key, on_trial=on_trial)


def _may_go_on(session: Session) -> bool:
    return session.affords(candidates=1) and any(trial.judgement is not None for trial in session.trials)


def _next_soup(experts: Sequence[str], done: Sequence[Trial]) -> Candidate | None:
    """The next step of the greedy soup that was not evaluated yet; ``None`` when it is complete."""
    losses = {trial.candidate.key(): _loss(trial) for trial in done}
    alone = {name: losses[soup_of([name], experts).key()] for name in experts}
    steps = soup_steps({name: loss for name, loss in alone.items() if not math.isnan(loss)} or alone)
    try:
        candidate = soup_of(next(steps), experts)
        while candidate.key() in losses:
            candidate = soup_of(steps.send(losses[candidate.key()]), experts)
    except StopIteration:
        return None
    return candidate


def _curve_points(plan: Plan, done: Sequence[Trial]) -> tuple[CurvePoint, ...]:
    """The curve of base + λ Σ τ from λ = 0, in order, as far as it was evaluated."""
    numbers = {trial.candidate.key(): trial.number for trial in reversed(done)}
    scales = sorted({0.0, 1 / len(plan.experts), *plan.curve})
    keys = {scale: curve_point(plan.experts, scale).key() for scale in scales}
    return tuple(CurvePoint(scale, numbers[key]) for scale, key in keys.items() if key in numbers)


def _loss(trial: Trial) -> float:
    """One number that orders trials as their judgements do; NaN for a failed one."""
    if trial.judgement is None:
        return math.nan
    return trial.judgement.objective if trial.judgement.feasible else MANY + trial.judgement.excess


def _evaluated(evaluate: Evaluate, candidate: Candidate, objective: Objective) -> Outcome:
    """The candidate's counts; a failure that is the candidate's own becomes its outcome."""
    try:
        counts = evaluate(candidate)
        _check_rates(counts, objective)
    except (CandidateError, ArithmeticError) as error:
        logger.warning("%s failed: %s", candidate.label, error)
        return Outcome(None, str(error) or type(error).__name__)
    return Outcome({name: (counts[name],) for name in objective.domains})


def _check_rates(counts: Mapping[str, ErrorCounts], objective: Objective) -> None:
    missing = [name for name in objective.domains if name not in counts]
    if missing:
        raise SearchError(f"the domain '{missing[0]}' was not evaluated: give its validation manifest.")
    for name in objective.domains:
        if not math.isfinite(counts[name].wer):
            raise CandidateError(f"the WER of '{name}' is {counts[name].wer}.")


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
