"""Every combination of a few levels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from pydantic import Field

from asrmerge.search.result import Point
from asrmerge.search.session import Session
from asrmerge.search.space import Dimension, MethodSpace, Space
from asrmerge.search.strategies._optuna import need_dimensions
from asrmerge.search.strategies._proposing import Observation, propose_until_spent
from asrmerge.validation import Section


class GridOptions(Section):
    points: int = Field(default=100, ge=1, description="of each method's grid, at most")


class Grid:
    """As many levels of every dimension as keep the grid within ``points``, the bounds among them, in an order that is drawn."""

    name = "grid"
    options = GridOptions

    def check(self, space: Space, objectives: int, options: GridOptions) -> None:
        """Raises ConfigError where there is nothing to choose."""
        need_dimensions(self.name, space)

    def run(self, session: Session, options: GridOptions) -> None:
        """Until the grid is done, or the budget is spent."""
        points = [point for space in session.space.methods for point in grid_points(space, options.points)]
        # Row by row, a budget that ends early would leave whole sides of the space untouched.
        order = iter(np.random.default_rng(session.seed).permutation(len(points)).tolist())
        for _ in [trial for trial in session.trials if trial.point is not None]:
            next(order, None)  # done by a run that was interrupted

        def propose(space: Space, known: Sequence[Observation], seed: int) -> Point | None:
            index = next(order, None)
            return None if index is None else points[index]

        propose_until_spent(session, propose)


def grid_points(space: MethodSpace, most: int) -> Iterator[Point]:
    """The combinations of evenly spread levels, ``most`` at most."""
    dimensions = space.dimensions
    fixed = int(np.prod([len(one.choices) for one in dimensions if one.choices])) if dimensions else 1
    free = sum(not one.choices for one in dimensions)
    levels = 1
    while free and fixed * (levels + 1) ** free <= most:
        levels += 1
    for values in product(*(_levels(one, levels) for one in dimensions)):
        yield Point(space.method, space.clip(dict(zip((one.name for one in dimensions), values, strict=True))))


def _levels(dimension: Dimension, count: int) -> list[Any]:
    if dimension.choices:
        return list(dimension.choices)
    places = np.linspace(0, 1, count) if count > 1 else [0.5]
    return list(dict.fromkeys(dimension.at(float(place)) for place in places))


strategy = Grid()
