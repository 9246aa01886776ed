"""A Gaussian process over the space."""

from __future__ import annotations

import optuna
from pydantic import Field

from asrmerge.search.session import Session
from asrmerge.search.space import Space
from asrmerge.search.strategies._optuna import need_dimensions, need_numbers, sample
from asrmerge.search.strategies._proposing import propose_until_spent
from asrmerge.validation import Section


class GpOptions(Section):
    startup: int = Field(default=10, ge=1, description="trials that are drawn at random before the process is fitted")


class GaussianProcess:
    """Optuna's Gaussian process with expected improvement: few trials, each proposed slowly."""

    name = "gp"
    options = GpOptions

    def check(self, space: Space, objectives: int, options: GpOptions) -> None:
        """Raises ConfigError for several methods, for choices, or where there is nothing to choose."""
        need_numbers(self.name, space)
        need_dimensions(self.name, space)

    def run(self, session: Session, options: GpOptions) -> None:
        """Until the budget is spent."""

        def make(seed: int) -> optuna.samplers.BaseSampler:
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=options.startup, deterministic_objective=False)

        propose_until_spent(session, lambda space, known, seed: sample(make, space, known, seed))


strategy = GaussianProcess()
