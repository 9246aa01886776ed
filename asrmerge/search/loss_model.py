"""Word errors predicted from the teacher-forced loss: it needs no decoding, and one utterance says more than its few errors do.

Of each domain, the loss is that of a candidate over the base's on the same utterances, r; the word error rate follows a power of
it, WER = exp(a)·r^g, fitted to the candidates that have been decoded. The exponent leans on a prior while there are few.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from asrmerge.search.candidate import Candidate
from asrmerge.search.counts import SearchCounts
from asrmerge.search.objective import Judgement, References
from asrmerge.search.racing import expected_counts
from asrmerge.search.session import Key, Session

_EXPONENT, _CERTAINTY = 0.8, 0.1  # of the prior; as certain as one candidate whose log r lies so far (squared) from the others'
_REFERENCE_WEIGHT = 0.3  # of the base and the experts in the fit: they lie far from the merges to be predicted
_WORDS = 1_000_000  # in which a predicted rate is told


class LossModel:
    """Losses of candidates on the first looks, and what they promise."""

    def __init__(self, session: Session, looks: int) -> None:
        """``looks``: how many blocks of the audio the losses are computed on."""
        self._session, self._looks = session, looks
        self._sums: dict[Key, dict[str, float]] = {}
        self._base: dict[str, tuple[float, ...]] = {}
        self._fits: dict[str, tuple[float, float]] = {}

    def measure(self, candidates: Iterable[Candidate]) -> None:
        """Compute the losses that are missing, the base's first."""
        base = self._session.reference_candidates[0]
        wanted = {one.key(): one for one in (base, *candidates) if one.key() not in self._sums}
        asked = [(one, look) for one in wanted.values() for look in range(self._looks)]
        if not asked or self._session.losses is None:
            return
        self._session.count_losses(sum(self._session.plan.size(look) for _, look in asked))
        found = self._session.losses(asked)
        for number, (key, one) in enumerate(wanted.items()):
            parts = found[number * self._looks : (number + 1) * self._looks]
            whole = {} if any(part is None for part in parts) else _joined([part for part in parts if part is not None])
            if one.kind == "base" and not self._base:
                self._base = whole
            self._sums[key] = {domain: self._sum(domain, values) for domain, values in whole.items()}

    def ratios(self, candidate: Candidate) -> dict[str, float] | None:
        """r by domain; None where the candidate cannot be merged, or its loss is no number."""
        mine, base = self._sums.get(candidate.key()), self._sums.get(self._session.reference_candidates[0].key())
        if not mine or not base:
            return None
        found = {domain: mine[domain] / base[domain] for domain in mine if base[domain] > 0}
        return found if all(math.isfinite(ratio) and ratio > 0 for ratio in found.values()) else None

    def calibrate(self, candidates: Iterable[Candidate]) -> None:
        """Fit the powers to candidates that have been decoded, each on as much audio as it has heard."""
        session = self._session
        rows: dict[str, list[tuple[float, float, float]]] = {}
        for one in {candidate.key(): candidate for candidate in candidates}.values():
            looks, ratios = session.looks_of(one), self.ratios(one)
            if not looks or ratios is None or session.error_of(one) is not None:
                continue
            weight = _REFERENCE_WEIGHT if one.kind in ("base", "expert") else 1.0
            for domain, counts in expected_counts(session.heard(one, looks), session.totals).items():
                if domain in ratios and counts.words:
                    rate = max(counts.wer, 0.5 / counts.words)
                    rows.setdefault(domain, []).append((math.log(ratios[domain]), math.log(rate), weight))
        self._fits = {domain: _fit(found) for domain, found in rows.items()}

    def predict(self, candidate: Candidate) -> Judgement | None:
        """What its losses promise; None where it has none."""
        counts, base = self._rates(candidate), self._rates(self._session.reference_candidates[0])
        if counts is None or base is None:
            return None
        objective, looks = self._session.objective, 1
        return objective.judge(counts, References(base, self._session.references(looks).home))

    def _rates(self, candidate: Candidate) -> dict[str, SearchCounts] | None:
        ratios = self.ratios(candidate)
        if ratios is None or set(ratios) != set(self._fits):
            return None
        rates = {name: math.exp(start + slope * math.log(ratios[name])) for name, (start, slope) in self._fits.items()}
        return {name: SearchCounts(_WORDS, round(rate * _WORDS)) for name, rate in rates.items()}

    def _sum(self, domain: str, values: Sequence[float]) -> float:
        """Over the utterances whose loss the base has."""
        return math.fsum(value for value, own in zip(values, self._base[domain], strict=True) if math.isfinite(own))


def _joined(parts: Sequence[Mapping[str, tuple[float, ...]]]) -> dict[str, tuple[float, ...]]:
    return {domain: tuple(value for part in parts for value in part[domain]) for domain in parts[0]}


def _fit(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Intercept and slope of weighted least squares, the slope drawn towards the prior's."""
    x, y, weight = np.array(rows).T
    mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = float((weight * (x - mean_x) ** 2).sum())
    product = float((weight * (x - mean_x) * (y - mean_y)).sum())
    slope = (product + _CERTAINTY * _EXPONENT) / (spread + _CERTAINTY)
    return float(mean_y - slope * mean_x), max(slope, 0.0)
