"""Made-up domains: word errors as smooth functions of the coefficients, with the noise of a finite validation set."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.candidate import Candidate

WORDS = 100_000  # fine enough to hold the rates below


@dataclass(frozen=True)
class World:
    """Each expert helps its own domain, saturating, and hurts the others; large sums hurt all, and general speech most."""

    seed: int = 0
    experts: int = 4
    noise: float = 0.003  # standard deviation of a domain's WER is twice that
    quadratic: bool = False

    @property
    def names(self) -> list[str]:
        return [f"d{index}" for index in range(self.experts)]

    def rates(self, point: np.ndarray) -> np.ndarray:
        """WER per domain, general last."""
        random = np.random.default_rng(self.seed)
        count = self.experts
        cross = random.uniform(0, 0.12, (count, count)) * (1 - np.eye(count))
        total = point.sum()
        if self.quadratic:
            best, gain = random.uniform(0.3, 1.0, count), random.uniform(0.12, 0.35, count)
            start = random.uniform(0.35, 0.7, count)
            own = start - gain * (1 - (1 - point / best) ** 2)
            spoilt = 0.03 * max(0.0, total - 1) ** 2
        else:
            rate, floor, gap = random.uniform(1.5, 6, count), random.uniform(0.05, 0.3, count), random.uniform(0.1, 0.4, count)
            own = floor + gap * np.exp(-rate * point)
            spoilt = random.uniform(0.03, 0.3) * max(0.0, total - 1) ** 2 / (1 + 0.3 * total**2)
        general = 0.1 + 0.05 * total**2
        return np.append(own + cross @ point**2 + spoilt, general)

    def truth(self, candidate: Candidate) -> float:
        """The macro-average WER that endless validation audio would give."""
        return float(self.rates(self._point(candidate))[:-1].mean())

    def optimum(self) -> float:
        starts = [np.full(self.experts, start) for start in (0.05, 0.3, 0.7)]
        bounds = [(0.0, 1.0)] * self.experts
        found = [minimize(lambda point: self.rates(point)[:-1].mean(), start, bounds=bounds).fun for start in starts]
        return float(min(found))

    def __call__(self, candidate: Candidate) -> Mapping[str, ErrorCounts]:
        point = self._point(candidate)
        draw = np.random.default_rng([self.seed, zlib.crc32(repr(candidate.key()).encode())])
        rates = self.rates(point) + draw.normal(0, self.noise * np.sqrt(self.experts), self.experts + 1)
        errors = np.rint(np.maximum(rates, 0) * WORDS).astype(int).tolist()
        return {name: ErrorCounts(WORDS, count) for name, count in zip([*self.names, "general"], errors, strict=True)}

    def _point(self, candidate: Candidate) -> np.ndarray:
        coefficients = candidate.coefficients()
        return np.array([coefficients[name] for name in self.names])
