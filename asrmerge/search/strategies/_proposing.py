"""Strategies that name one point after the other, from the finished trials alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asrmerge.search.objective import Judgement
from asrmerge.search.result import Point
from asrmerge.search.session import Session
from asrmerge.search.space import Space, Values

_TRIES = 20  # to find a point that was not tried


@dataclass(frozen=True)
class Observation:
    """A finished trial as strategies see it; without a judgement it failed."""

    method: str
    values: Values
    judgement: Judgement | None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    proposed: bool = False


Propose = Callable[[Space, Sequence[Observation], int], "Point | None"]
"""The next point from what is known and a seed: the same for the same arguments; None where none is left."""


def propose_until_spent(session: Session, propose: Propose) -> None:
    """Evaluate what ``propose`` names on all of the audio, until the budget is spent or nothing new is named.

    Each proposal hangs on the finished trials and on a seed of its own, so that a killed search goes on as if it had not been.
    """
    tried = {trial.candidate.key() for trial in session.trials}
    while session.affords(candidates=1, utterances=session.plan.total):
        known = observations(session)
        number = len(session.trials)
        for attempt in range(_TRIES):
            point = propose(session.space, known, trial_seed(session.seed, number, attempt))
            if point is None:
                return
            space = session.space.of(point.method)
            label = f"search {number}" if len(session.space.methods) == 1 else f"search {number}, {point.method}"
            candidate = space.candidate(point.values, label)
            if candidate.key() not in tried:
                break
        else:
            return
        tried.add(candidate.key())
        session.evaluate(candidate, point)


def observations(session: Session) -> list[Observation]:
    """Every trial that lies in the space, in order; the base lies in each method's."""
    found = []
    for trial in session.trials:
        if trial.point is not None:
            point = trial.point
            found.append(Observation(point.method, point.values, trial.judgement, point.attributes, proposed=True))
            continue
        for space in session.space.methods:
            values = space.values(trial.candidate)
            if values is not None and space.holds(values):
                found.append(Observation(space.method, values, trial.judgement))
    return found


def trial_seed(seed: int, number: int, attempt: int = 0) -> int:
    """A seed of one trial alone."""
    return int(np.random.SeedSequence([seed, number, attempt] if attempt else [seed, number]).generate_state(1)[0])
