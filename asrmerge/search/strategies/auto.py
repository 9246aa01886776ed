"""The project's own strategy: the loss says where to look, a race on growing blocks of audio says what is best."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from pydantic import Field
from scipy import stats

from asrmerge.errors import ConfigError, SearchError
from asrmerge.search.budget import FULL_EVALUATIONS
from asrmerge.search.candidate import Candidate, fixed_candidates
from asrmerge.search.loss_model import LossModel
from asrmerge.search.objective import Judgement
from asrmerge.search.race import Race
from asrmerge.search.result import LossRanking, Point
from asrmerge.search.session import Key, Session
from asrmerge.search.space import MethodSpace, Space, Values
from asrmerge.search.strategies._optuna import need_one_objective
from asrmerge.search.strategies._proposing import Observation, trial_seed
from asrmerge.search.strategies.surface import propose_within
from asrmerge.validation import Section

logger = logging.getLogger(__name__)

_CURVE = (0.15, 0.3, 0.45, 0.6, 0.8, 1.0)  # of the weights' range
_AT_ONCE = 4  # proposals that are measured together, whatever the number of workers
_APART = 0.08  # of the range, between candidates of one wave
_ENOUGH = 10  # utterances of a domain, for losses that rank as well as those of more


class AutoOptions(Section):
    """What is spent on which part."""

    loss_looks: int | None = Field(
        default=None,
        ge=1,
        le=4,
        description="blocks of audio that losses are computed on; if not given, the first, and the second too where that has "
        f"fewer than {_ENOUGH} utterances of a domain",
    )
    methods: int = Field(default=3, ge=1, description="that are looked into, the best by loss with equal weights")
    candidates: int = Field(default=10, ge=2, description="merges in the first race")
    refinements: int = Field(default=2, ge=0, description="further waves around the leader")
    wave: int = Field(default=5, ge=1, description="merges in a further wave")
    level: float = Field(default=0.05, gt=0.0, lt=1.0, description="chance with which a race drops the best by mistake")


class Auto:
    """Losses first, then races.

    1. The base, the uniform average and every expert hear the first block. Losses of these, of the λ curves of all methods, and
       of a quadratic design around the best λ of the best methods are computed; they predict word errors (``loss_model``).
    2. The most promising, not too near to each other, race against the base, the average and the experts on growing blocks.
    3. What has been decoded corrects the prediction; further waves are proposed around the leader and race against it.
    4. The finalists have heard all of the audio; the best of them is the result.

    Without losses (of models that have none), the first block's word errors take their place.
    """

    name = "auto"
    options = AutoOptions
    races = True

    def check(self, space: Space, objectives: int, options: AutoOptions) -> None:
        """Raises ConfigError for several objectives; any space will do."""
        need_one_objective(self.name, objectives)

    def run(self, session: Session, options: AutoOptions) -> None:
        """Until the budget is spent, or nothing can win any more."""
        _Course(session, options).run()


class _Course:
    def __init__(self, session: Session, options: AutoOptions) -> None:
        self._session, self._options = session, options
        self._loss = LossModel(session, _loss_looks(session, options))
        self._race = Race(session, level=options.level)
        self._points: dict[Key, tuple[Point, Candidate]] = {}
        self._curves: set[Key] = set()
        base, *experts = session.reference_candidates
        uniform = next(one for one in fixed_candidates(session.experts, ()) if one.kind == "uniform")
        self._fixed = (base, uniform, *experts)
        needed = [base] if session.objective.needs_base else []
        self._references = (*needed, *(experts if session.objective.needs_experts else ()))

    def run(self) -> None:
        session, options = self._session, self._options
        self._check_budget()
        session.hear(self._fixed, 1)
        for one in self._references:
            if (error := session.error_of(one)) is not None:
                raise SearchError(f"{one.label} could not be evaluated, so what is relative to it has no limit: {error}")
        spaces = self._look_at_curves()
        for space in spaces:
            self._design(space, 3 * len(space.numeric) + 4)
        wave = self._choose(spaces, options.candidates, each=True)
        # Where the budget lets only the first go on, that must be the best of the fixed ones.
        sound = [one for one in self._fixed if session.error_of(one) is None]
        fixed = [*(one.candidate for one in self._race.standings(sound, 1)), *self._fixed]
        finalists = self._race.run([*wave, *fixed], (8, 5, 3), references=self._references)
        for number in range(options.refinements):
            if not finalists or not session.affords(candidates=1, utterances=session.plan.size(0)):
                break
            champion = finalists[0]
            self._calibrate(champion)
            leader = self._space_of(champion) or spaces[0]
            self._design(leader, len(leader.numeric) + 4)
            wave = self._choose(spaces, options.wave)
            if not wave:
                break
            logger.debug("wave %d: %s", number + 2, ", ".join(one.label for one in wave))
            finalists += self._race.run(wave, (3, 2, 1), champion=champion, references=self._references)
            finalists = [one.candidate for one in self._race.standings(finalists, session.plan.looks)]
            session.lead(finalists[0], session.plan.looks)
        for one in {one.key(): one for one in (*self._references, *finalists)}.values():
            session.finish(one, point=self._point(one))
        session.ranking = self._ranking()

    def _check_budget(self) -> None:
        plan, given = self._session.plan, self._session.budget.utterances
        rest = plan.total - plan.size(0)
        needed = plan.size(0) * len(self._fixed) + rest * (len(self._references) + 1)
        if given is not None and given < needed:
            raise ConfigError(
                f"with a budget of {given} utterances no merge could hear all of the validation audio: give at least {needed}, "
                f"or leave the budget out ({FULL_EVALUATIONS * plan.total} then)."
            )

    def _look_at_curves(self) -> list[MethodSpace]:
        """The methods that promise most with equal weights."""
        curves = {}
        for space in self._session.space.methods:
            high = max((one.high for one in space.weights), default=1.0)
            scales = _CURVE if space.weights else (1.0,)
            curves[space.method] = [self._add(space, space.clip(space.equal(high * part))) for part in scales]
        self._curves = set(self._points)
        self._measure([*self._fixed, *(one for curve in curves.values() for one in curve)])
        self._calibrate()
        best = {method: min(map(self._rank, curve)) for method, curve in curves.items()}
        chosen = sorted(best, key=lambda method: best[method])[: self._options.methods]
        logger.info("methods that promise most: %s", ", ".join(chosen))
        return [self._session.space.of(method) for method in chosen]

    def _design(self, space: MethodSpace, count: int) -> None:
        """So many points more: coordinate steps around the best, then the minimum of a quadratic surface, in turn with TPE."""
        start = len(self._points)
        while count > 0:
            batch: list[Candidate] = []
            for _ in range(min(_AT_ONCE, count)):
                known = [
                    Observation(point.method, point.values, self._promise(one), proposed=key not in self._curves)
                    for key, (point, one) in self._points.items()
                ]
                point = propose_within(space, known, trial_seed(self._session.seed, len(self._points)))
                if point is None or (one := self._add(space, point.values)) in batch:
                    break
                batch.append(one)
            if not batch:
                return
            self._measure(batch)
            count -= len(batch)
        logger.debug("%s: %d points", space.method, len(self._points) - start)

    def _choose(self, spaces: Sequence[MethodSpace], count: int, *, each: bool = False) -> list[Candidate]:
        """The most promising that were in no race yet, none too near to another; with ``each``, the best of each method, too."""
        session = self._session
        names = [one.method for one in spaces]
        ranked = sorted(
            (one for point, one in self._points.values() if point.method in names and self._is_promising(one)),
            key=lambda one: self._rank(one),
        )
        firsts = [next((one for one in ranked if one.method == name), None) for name in names] if each else []
        chosen: list[Candidate] = []
        for one in [*(first for first in firsts if first is not None), *ranked]:
            affordable = session.affords(
                candidates=len(chosen) + 1, utterances=session.plan.size(0) * (len(chosen) + 1) + session.plan.total
            )
            if len(chosen) >= count or not affordable:
                break
            if all(self._distance(one, other) >= _APART for other in (*chosen, *self._heard())):
                chosen.append(one)
        return chosen

    def _is_promising(self, candidate: Candidate) -> bool:
        raced = self._session.looks_of(candidate) > (0 if self._session.losses is not None else 1)
        return not raced and self._session.error_of(candidate) is None and math.isfinite(self._rank(candidate)[1])

    def _heard(self) -> list[Candidate]:
        """Merges that have heard more than the first block: others may have been left behind by chance."""
        return [one for _, one in self._points.values() if self._session.looks_of(one) > 1]

    def _distance(self, one: Candidate, other: Candidate) -> float:
        """The largest difference of a dimension, as a share of its range; infinite between methods."""
        points = [self._point(candidate) for candidate in (one, other)]
        if points[0] is None or points[1] is None or points[0].method != points[1].method:
            return math.inf
        space = self._session.space.of(points[0].method)
        pairs = [(part, points[0].values[part.name], points[1].values[part.name]) for part in space.dimensions]
        return max((float(a != b) if part.choices else abs(part.place(a) - part.place(b)) for part, a, b in pairs), default=0.0)

    def _measure(self, candidates: Sequence[Candidate]) -> None:
        if self._session.losses is not None:
            self._loss.measure(candidates)
        else:
            self._session.hear(candidates, 1)

    def _calibrate(self, leader: Candidate | None = None) -> None:
        if self._session.losses is not None:
            self._loss.calibrate([*self._fixed, *(one for _, one in self._points.values())], leader)

    def _promise(self, candidate: Candidate) -> Judgement | None:
        """What is expected of it; None where it cannot be merged, or was not measured."""
        session = self._session
        if session.losses is not None:
            return self._loss.predict(candidate)
        if not session.looks_of(candidate) or session.error_of(candidate) is not None:
            return None
        counts = session.counts(candidate, 1)
        return session.objective.judge(counts, session.references(1))

    def _rank(self, candidate: Candidate) -> tuple[float, float]:
        judgement = self._promise(candidate)
        return (math.inf, math.inf) if judgement is None else judgement.rank

    def _point(self, candidate: Candidate) -> Point | None:
        found = self._points.get(candidate.key())
        return None if found is None else found[0]

    def _space_of(self, candidate: Candidate) -> MethodSpace | None:
        point = self._point(candidate)
        return None if point is None else self._session.space.of(point.method)

    def _ranking(self) -> LossRanking | None:
        """Of the merges that have heard the first block."""
        session = self._session
        heard = [one for _, one in self._points.values() if session.looks_of(one) and self._loss.ratios(one) is not None]
        if session.losses is None or len(heard) < 3:
            return None
        losses = [sum((self._loss.ratios(one) or {}).get(name, 0.0) for name in session.objective.targets) for one in heard]
        references = session.references(1)
        errors = [session.objective.judge(session.counts(one, 1), references).objective for one in heard]
        correlation = float(stats.spearmanr(losses, errors).statistic)
        return LossRanking(round(correlation, 4), len(heard), session.spent.losses)

    def _add(self, space: MethodSpace, values: Values) -> Candidate:
        numbers = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
        one = space.candidate(values, ", ".join([space.method, *numbers]))
        self._points.setdefault(one.key(), (Point(space.method, values), one))
        return self._points[one.key()][1]


def _loss_looks(session: Session, options: AutoOptions) -> int:
    enough = all(len(session.plan.block(name, 0)) >= _ENOUGH for name in session.plan.utterances)
    return min(options.loss_looks or (1 if enough else 2), session.plan.looks)


strategy = Auto()
