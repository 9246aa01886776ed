"""How much of the gap between the best fixed candidate and the optimum the proposals close; run it by its path."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from synthetic import World

from asrmerge.search import proposals
from asrmerge.search.candidate import fixed_candidates
from asrmerge.search.study import search_coefficients

WORLDS = [(experts, quadratic) for experts in (2, 4, 6) for quadratic in (False, True)]
NO_STEPS = mock.patch.object(proposals, "coordinate_steps", lambda space, center: [])
TPE_ONLY = mock.patch.object(proposals, "surface_minimum", lambda space, known, generator: known[0].point)


def main(seeds: int = 12) -> None:
    for strategy, patches in {"TPE": (NO_STEPS, TPE_ONLY), "steps, TPE": (TPE_ONLY,), "steps, surface and TPE": ()}.items():
        for budget in (20, 30, 40):
            rows = []
            for patch in patches:
                patch.start()
            for experts, quadratic in WORLDS:
                for seed in range(seeds):
                    world = World(seed, experts, quadratic=quadratic)
                    with tempfile.TemporaryDirectory() as folder:
                        found = search_coefficients(
                            world, experts=world.names, targets=world.names, trials=budget, storage=Path(folder) / "journal"
                        )
                    count = len(fixed_candidates(world.names))
                    start = world.truth(min(found.trials[:count], key=lambda trial: trial.rank).candidate)
                    curve = [trial for trial in found.trials if trial.candidate.kind in ("curve", "uniform")]
                    rows.append([
                        world.truth(found.trials[1].candidate), world.truth(min(curve, key=lambda trial: trial.rank).candidate),
                        start, world.truth(found.best.candidate), world.optimum(),
                    ])  # fmt: skip
            for patch in patches:
                patch.stop()
            means = np.mean(rows, axis=0)
            closed = (means[2] - means[3]) / (means[2] - means[4])
            names = ("uniform", "curve", "best fixed", "found", "optimum")
            figures = ", ".join(f"{name} {100 * mean:.2f}" for name, mean in zip(names, means, strict=True))
            print(f"{strategy}, {budget} trials: {figures}; {100 * closed:.0f} % of the gap closed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
