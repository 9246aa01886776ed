"""A genetic algorithm for several objectives."""

from __future__ import annotations

import optuna
from pydantic import Field

from asrmerge.search.session import Session
from asrmerge.search.space import Space
from asrmerge.search.strategies._optuna import need_dimensions, sample
from asrmerge.search.strategies._proposing import propose_until_spent
from asrmerge.validation import Section


class Nsga2Options(Section):
    population: int = Field(default=16, ge=2, description="points of a generation")


class Nsga2:
    """Optuna's NSGA-II (Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002): a front of trade-offs between several objectives."""

    name = "nsga2"
    options = Nsga2Options

    def check(self, space: Space, objectives: int, options: Nsga2Options) -> None:
        """Raises ConfigError where there is nothing to choose."""
        need_dimensions(self.name, space)

    def run(self, session: Session, options: Nsga2Options) -> None:
        """Until the budget is spent."""

        def make(seed: int) -> optuna.samplers.BaseSampler:
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=options.population)

        propose_until_spent(session, lambda space, known, seed: sample(make, space, known, seed))


strategy = Nsga2()
