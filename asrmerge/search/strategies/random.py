"""Points drawn uniformly."""

from __future__ import annotations

import optuna

from asrmerge.search.session import Session
from asrmerge.search.space import Space
from asrmerge.search.strategies._optuna import need_dimensions, sample
from asrmerge.search.strategies._proposing import propose_until_spent
from asrmerge.search.strategy import NoOptions


class Random:
    """Uniform in every range; each method as often as the others."""

    name = "random"
    options = NoOptions

    def check(self, space: Space, objectives: int, options: NoOptions) -> None:
        """Raises ConfigError where there is nothing to choose."""
        need_dimensions(self.name, space)

    def run(self, session: Session, options: NoOptions) -> None:
        """Until the budget is spent."""
        propose_until_spent(
            session, lambda space, known, seed: sample(lambda own: optuna.samplers.RandomSampler(seed=own), space, known, seed)
        )


strategy = Random()
