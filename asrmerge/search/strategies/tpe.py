"""The tree-structured Parzen estimator."""

from __future__ import annotations

import optuna
from pydantic import Field

from asrmerge.search.session import Session
from asrmerge.search.space import Space
from asrmerge.search.strategies._optuna import need_dimensions, sample
from asrmerge.search.strategies._proposing import propose_until_spent
from asrmerge.validation import Section


class TpeOptions(Section):
    startup: int = Field(default=10, ge=1, description="trials that are drawn at random before the estimate is trusted")


class Tpe:
    """Optuna's multivariate TPE (Watanabe, arXiv 2304.11127); of several methods, each has estimates of its own."""

    name = "tpe"
    options = TpeOptions

    def check(self, space: Space, objectives: int, options: TpeOptions) -> None:
        """Raises ConfigError where there is nothing to choose."""
        need_dimensions(self.name, space)

    def run(self, session: Session, options: TpeOptions) -> None:
        """Until the budget is spent."""

        def make(seed: int) -> optuna.samplers.BaseSampler:
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=options.startup)

        propose_until_spent(session, lambda space, known, seed: sample(make, space, known, seed))


strategy = Tpe()
