"""Coordinate steps around the best, then a quadratic surface and TPE in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asrmerge.search import proposals
from asrmerge.search.result import Point
from asrmerge.search.session import Session
from asrmerge.search.space import MethodSpace, Space, Values
from asrmerge.search.strategies._optuna import need_dimensions, need_one_objective
from asrmerge.search.strategies._proposing import Observation, propose_until_spent
from asrmerge.search.strategy import NoOptions


class Surface:
    """See :mod:`asrmerge.search.proposals`. Of several methods, it searches that of the best merge with equal weights."""

    name = "surface"
    options = NoOptions

    def check(self, space: Space, objectives: int, options: NoOptions) -> None:
        """Raises ConfigError where there is nothing to choose."""
        need_dimensions(self.name, space)
        need_one_objective(self.name, objectives)

    def run(self, session: Session, options: NoOptions) -> None:
        """Until the budget is spent."""
        propose_until_spent(session, _propose)


def propose_within(space: MethodSpace, known: Sequence[Observation], seed: int) -> Point | None:
    """The next point of one method; choices stay as they are in its best trial."""
    own = [one for one in known if one.method == space.method and space.holds(one.values)]
    judged = [one for one in own if one.judgement is not None]
    if not space.numeric:
        return None
    cube = proposals.Space(len(space.numeric), 0.0, 1.0)
    best = min(judged, key=lambda one: one.judgement.rank if one.judgement else (0.0, 0.0)).values if judged else space.equal(0.5)
    tried = [space.clip(one.values) for one in own]

    def at(places: Sequence[float]) -> dict[str, Any]:
        return space.clip({**best, **{one.name: one.at(place) for one, place in zip(space.numeric, places, strict=True)}})

    found = proposals.propose(
        cube,
        fixed=[_in_cube(space, one) for one in judged if not one.proposed],
        found=[_in_cube(space, one) for one in judged if one.proposed],
        tried={cube.clip(space.places(one.values)) for one in own},
        seed=seed,
        same=lambda places: at(places) in tried,
    )
    return None if found is None else Point(space.method, at(found))


def _propose(space: Space, known: Sequence[Observation], seed: int) -> Point | None:
    return propose_within(space.of(_best_method(space, known)), known, seed)


def _best_method(space: Space, known: Sequence[Observation]) -> str:
    """That of the best merge that every search has, which have equal weights; the first if none could be evaluated."""
    names = [one.method for one in space.methods]
    equal = [
        (one.judgement.rank, number, one.method)
        for number, one in enumerate(known)
        if one.judgement is not None and not one.proposed and _is_equal(space.of(one.method), one.values)
    ]
    return min(equal)[2] if equal else names[0]


def _is_equal(space: MethodSpace, values: Values) -> bool:
    weights = {round(float(values[one.name]), 6) for one in space.weights}
    return len(weights) <= 1 and weights != {0.0}


def _in_cube(space: MethodSpace, one: Observation) -> proposals.Observation:
    assert one.judgement is not None
    return proposals.Observation(space.places(one.values), one.judgement)


strategy = Surface()
