"""Trade-offs between several objectives: the candidates that no other beats in all of them, by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asrmerge.errors import ConfigError
from asrmerge.search.result import SearchResult, Trial
from asrmerge.validation import suggest

KNEE = "knee"


def pareto_front(values: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Indices of the rows that no other row is at most equal to in every column and below in one; of equal rows the first.

    All columns are minimised. The result is ordered by the columns, the first before the second.
    """
    found: list[int] = []
    for index, row in enumerate(values):
        others = [other for number, other in enumerate(values) if number != index]
        beaten = any(all(a <= b for a, b in zip(other, row, strict=True)) and tuple(other) != tuple(row) for other in others)
        if not beaten and tuple(row) not in {tuple(values[one]) for one in found}:
            found.append(index)
    return tuple(sorted(found, key=lambda index: tuple(values[index])))


def front_of(result: SearchResult) -> dict[str, Trial]:
    """The front's candidates by name: ``front-1`` … from the best by the first objective on, and ``knee``.

    The knee is the point farthest below the plane through the objectives' best points, after each objective is scaled to 0..1
    along the front. Candidates that break a constraint, or have not heard all of the audio, are no part of it.
    """
    trials = [trial for trial in result.trials if trial.feasible and trial.complete and trial.judgement is not None]
    values = [(trial.judgement.objective, *trial.judgement.further) for trial in trials if trial.judgement is not None]
    chosen = pareto_front(values)
    if not chosen:
        return {}
    named = {f"front-{place}": trials[index] for place, index in enumerate(chosen, start=1)}
    points = np.array([values[index] for index in chosen])
    low, high = points.min(axis=0), points.max(axis=0)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    return {**named, KNEE: trials[chosen[int(np.argmin(scaled.sum(axis=1)))]]}


def pick(result: SearchResult, name: str) -> Trial:
    """The candidate of that name on the front.

    Raises:
        ConfigError: there is none; the message lists the names.
    """
    front = front_of(result)
    if name not in front:
        raise ConfigError(f"the front has no point '{name}'; {suggest(name, front) if front else 'no candidate is feasible'}.")
    return front[name]
