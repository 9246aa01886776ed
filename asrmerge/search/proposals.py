"""Where to look next: coordinate steps around the best, then a quadratic surface and TPE in turn.

Measured by tests/search/benchmark_proposals.py, on 48 noisy synthetic objectives of 2, 4 and 6 experts: of the gap between the
best fixed candidate and the optimum, after 40 trials, TPE alone closes 43 %, after the coordinate steps 50 %, in turn with the
surface 83 % (after 30 trials 33, 35 and 77 %). The surface averages out the noise of a finite validation set, which TPE's few
best trials chase; TPE leaves the surface's basin.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna

from asrmerge.search.candidate import DIGITS
from asrmerge.search.objective import Judgement

Array = npt.NDArray[np.float64]
Point = tuple[float, ...]

STEP = 0.25  # of the range: the coordinate steps
REACH = 0.2  # of the range: how far from the best the surface is trusted
WIDTH = 0.5  # of the range: how far from the best a trial still counts for the surface
RIDGE = 1e-3
SURFACE_SAMPLES = 4000
RANDOM_TRIES = 1000
MANY = 1000.0  # more than any sum of word error rates


@dataclass(frozen=True)
class Space:
    """One coefficient per expert, all between the same bounds."""

    dimensions: int
    low: float
    high: float

    def clip(self, point: Sequence[float] | Array) -> Point:
        """The nearest point of the space, rounded."""
        return tuple(round(min(max(float(value), self.low), self.high), DIGITS) + 0.0 for value in point)

    def holds(self, point: Sequence[float]) -> bool:
        """Whether ``point`` lies within the bounds."""
        return all(self.low <= value <= self.high for value in point)


@dataclass(frozen=True)
class Observation:
    """A finished trial."""

    point: Point
    judgement: Judgement


def propose(
    space: Space,
    fixed: Sequence[Observation],
    found: Sequence[Observation],
    tried: set[Point],
    seed: int,
    same: Callable[[Point], bool] = lambda point: False,
) -> Point | None:
    """The next coefficients, none of ``tried``, or ``None`` if none is left; the same for the same arguments.

    Args:
        fixed: the candidates of every search; the coordinate steps start from the best of them.
        found: what was proposed since, in order.
        tried: every point so far, failed ones too, as ``space.clip`` rounds them.
        seed: of this trial alone.
        same: whether a point comes to one of those that were tried, although it is none of them.
    """
    generator = np.random.default_rng(seed)
    points = _proposals(space, fixed, found, tried, generator)
    return next((point for point in points if point not in tried and not same(point)), None)


def _proposals(
    space: Space, fixed: Sequence[Observation], found: Sequence[Observation], tried: set[Point], generator: np.random.Generator
) -> Iterator[Point]:
    known = [one for one in (*fixed, *found) if space.holds(one.point)]
    if known:
        start = [one for one in fixed if space.holds(one.point)] or known
        yield from coordinate_steps(space, min(start, key=_rank).point)
        # By the number of points tried rather than of successes: a failure must not make the surface repeat itself.
        if len(tried) % 2 == 0:
            yield surface_minimum(space, known, generator)
        yield tpe_sample(space, known, int(generator.integers(2**32)))
    for _ in range(RANDOM_TRIES):
        yield space.clip(generator.uniform(space.low, space.high, space.dimensions))


def coordinate_steps(space: Space, center: Point) -> list[Point]:
    """``center`` with one coefficient moved up or down by ``STEP`` of the range, inside the bounds."""
    step = STEP * (space.high - space.low)
    points = []
    for index in range(space.dimensions):
        for sign in (1, -1):
            moved = list(center)
            moved[index] += sign * step
            points.append(space.clip(moved))
    return points


def surface_minimum(space: Space, known: Sequence[Observation], generator: np.random.Generator) -> Point:
    """The best point near the best trial, by quadratic surfaces through objective and constraints.

    Locally weighted ridge regression on all products of two coefficients; the ridge lets it be fitted from the first trials on.
    """
    span = space.high - space.low
    best = min(known, key=_rank)
    center = np.asarray(best.point)
    offsets = (np.asarray([one.point for one in known]) - center) / span
    figures = np.asarray([(one.judgement.objective, *one.judgement.excesses) for one in known])
    origin = figures[known.index(best)]
    features = _quadratic(offsets)
    weights = np.exp(-(offsets**2).sum(1) / (2 * WIDTH**2))[:, None]
    penalty = RIDGE * np.eye(features.shape[1])
    penalty[0, 0] = 0.0
    coefficients = np.linalg.solve(features.T @ (weights * features) + penalty, features.T @ (weights * (figures - origin)))
    around = center + generator.uniform(-REACH * span, REACH * span, (SURFACE_SAMPLES, space.dimensions))
    samples = np.clip(around, space.low, space.high)
    predicted = _quadratic((samples - center) / span) @ coefficients + origin
    excess = np.maximum(predicted[:, 1:], 0).sum(1)
    return space.clip(samples[np.lexsort((predicted[:, 0], excess))[0]])


def tpe_sample(space: Space, known: Sequence[Observation], seed: int) -> Point:
    """A sample of Optuna's multivariate TPE (Watanabe, arXiv 2304.11127).

    TPE only ranks: a value of ``MANY`` plus the excess puts infeasible trials behind all others, nearest to the limit first,
    exactly as Optuna's own constraints do; but those changed their interface between the versions that we accept.
    """
    names = [f"c{index}" for index in range(space.dimensions)]
    distributions = {name: optuna.distributions.FloatDistribution(space.low, space.high) for name in names}
    with quiet():
        # A study in memory, made anew: the sample depends on these trials and this seed only, however often we were killed.
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=1, constant_liar=False)
        study = optuna.create_study(sampler=sampler)
        for one in known:
            value = one.judgement.objective if one.judgement.feasible else MANY + one.judgement.excess
            params = dict(zip(names, one.point, strict=True))
            study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
        sample = study.ask(distributions).params
    return space.clip([sample[name] for name in names])


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block Optuna keeps its notes on new studies and experimental features to itself."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)  # deprecations, which the versions that we accept bound
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _rank(one: Observation) -> tuple[float, float]:
    return one.judgement.rank


def _quadratic(offsets: Array) -> Array:
    """[n, T] → [n, 1 + T + T(T+1)/2]: a constant, the coefficients, their products."""
    rows, columns = np.triu_indices(offsets.shape[1])
    return np.concatenate([np.ones((len(offsets), 1)), offsets, offsets[:, rows] * offsets[:, columns]], axis=1)
