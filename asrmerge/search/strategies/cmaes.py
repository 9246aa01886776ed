"""Covariance matrix adaptation."""

from __future__ import annotations

import optuna
from pydantic import Field

from asrmerge.search.session import Session
from asrmerge.search.space import Space
from asrmerge.search.strategies._optuna import need_dimensions, need_numbers, need_one_objective, sample
from asrmerge.search.strategies._proposing import propose_until_spent
from asrmerge.validation import Section


class CmaesOptions(Section):
    """The defaults are mergekit-evolve's: σ₀ of 1/6, the population that the number of dimensions asks for."""

    sigma: float = Field(default=1 / 6, gt=0.0, le=1.0, description="first step size, as a share of each range")
    population: int | None = Field(default=None, ge=2, description="of a generation; 4 + 3·log(dimensions) if not given")


class Cmaes:
    """Optuna's CMA-ES (Hansen, arXiv 1604.00772), started in the middle of every range."""

    name = "cmaes"
    options = CmaesOptions

    def check(self, space: Space, objectives: int, options: CmaesOptions) -> None:
        """Raises ConfigError for several methods, for choices, or for less than two dimensions."""
        need_numbers(self.name, space)
        need_dimensions(self.name, space)
        need_one_objective(self.name, objectives)

    def run(self, session: Session, options: CmaesOptions) -> None:
        """Until the budget is spent."""
        [space] = session.space.methods
        middle = {f"{space.method}.{one.name}": one.at(0.5) for one in space.dimensions}
        # Optuna scales every range to 0..1, and takes 1/6 by itself; to say a step size is deprecated there.
        sigma = None if options.sigma == CmaesOptions().sigma else options.sigma

        def make(seed: int) -> optuna.samplers.BaseSampler:
            return optuna.samplers.CmaEsSampler(
                x0=middle, sigma0=sigma, seed=seed, popsize=options.population, n_startup_trials=1
            )

        # What others have chosen would fill a generation that the sampler has not asked for.
        propose_until_spent(session, lambda space, known, seed: sample(make, space, [one for one in known if one.proposed], seed))


strategy = Cmaes()
