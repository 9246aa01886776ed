"""Word errors predicted from the teacher-forced loss: it needs no decoding, and one utterance says more than its few errors do.

Of each domain, the loss is that of a candidate over the base's on the same utterances, r; the word error rate follows a power of
it, WER = exp(a)·r^g, fitted to the candidates that have been decoded. The exponent leans on a prior while there are few. The loss
does not know everything: what the power leaves is smoothed over the space of each method, so that where many merges have been
decoded their errors count for more than the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from asrmerge.evaluation.counts import ErrorCounts
from asrmerge.search.candidate import Candidate
from asrmerge.search.counts import SearchCounts
from asrmerge.search.objective import Judgement, References
from asrmerge.search.session import Key, Session
from asrmerge.search.smoothing import Smoothed
from asrmerge.search.space import MethodSpace

_EXPONENT, _CERTAINTY = 0.8, 0.1  # of the prior; as certain as one candidate whose log r lies so far (squared) from the others'
_REFERENCE_WEIGHT = 0.3  # of the base and the experts in the fit: they lie far from the merges to be predicted
_SPREAD = 0.3  # of what the power leaves of log WER
_LENGTH = 0.4  # how far that reaches, as a share of the range of each number
_NOISE = 0.7  # variance of log WER × errors heard: most of an utterance's difficulty is common to all candidates
_WORDS = 1_000_000  # in which a predicted rate is told


class _Seen(NamedTuple):
    """A candidate that was decoded: logarithms of its loss ratio and of its error rate in a domain, and the errors heard."""

    candidate: Candidate
    ratio: float
    rate: float
    errors: int


class LossModel:
    """Losses of candidates on the first looks, and what they promise."""

    def __init__(self, session: Session, looks: int) -> None:
        """``looks``: how many blocks of the audio the losses are computed on."""
        self._session, self._looks = session, looks
        self._sums: dict[Key, dict[str, float]] = {}
        self._base: dict[str, tuple[float, ...]] = {}
        self._fits: dict[str, tuple[float, float]] = {}
        self._left: dict[tuple[str, str], Smoothed] = {}
        self._references: References | None = None

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

    def calibrate(self, candidates: Iterable[Candidate], leader: Candidate | None = None) -> None:
        """Fit the powers, and what they leave, to candidates that have been decoded, each on as much audio as it has heard.

        Args:
            leader: has heard more than others; their rates are taken to its audio by its own rates on theirs and on all of its.
        """
        session = self._session
        seen: dict[str, list[_Seen]] = {}
        for one in {candidate.key(): candidate for candidate in candidates}.values():
            looks, ratios = session.looks_of(one), self.ratios(one)
            if not looks or ratios is None or session.error_of(one) is not None:
                continue
            heard = session.heard(one, looks)
            longer = self._longer(leader, looks)
            for domain, counts in session.counts(one, looks).items():
                if domain in ratios and counts.words:
                    errors = sum(own.errors for own in heard[domain])
                    rate = _rate(counts) * longer.get(domain, 1.0)
                    seen.setdefault(domain, []).append(_Seen(one, math.log(ratios[domain]), math.log(rate), errors))
        self._fits = {domain: _fit(found) for domain, found in seen.items()}
        self._left = {
            (space.method, domain): smoothed
            for domain, found in seen.items()
            for space in session.space.methods
            if (smoothed := self._smooth(space, found, self._fits[domain])) is not None
        }
        base = self._rates(session.reference_candidates[0])
        self._references = None if base is None else References(base, session.references(1).home)

    def predict(self, candidate: Candidate) -> Judgement | None:
        """What its losses promise, with what was decoded near to it; None where it has none."""
        counts = self._rates(candidate)
        if counts is None or self._references is None:
            return None
        return self._session.objective.judge(counts, self._references)

    def _longer(self, leader: Candidate | None, looks: int) -> dict[str, float]:
        """By domain, the leader's rate on everything that it has heard over that on so many looks."""
        session = self._session
        if leader is None or session.looks_of(leader) <= looks:
            return {}
        part, whole = (session.counts(leader, count) for count in (looks, session.looks_of(leader)))
        return {domain: _rate(whole[domain]) / _rate(part[domain]) for domain in whole if whole[domain].words}

    def _smooth(self, space: MethodSpace, found: Sequence[_Seen], fit: tuple[float, float]) -> Smoothed | None:
        """What the power leaves of the logarithms of the rates, over the space of a method."""
        own = [(place, one) for one in found if (place := _place(space, one.candidate)) is not None]
        if not own:
            return None
        return Smoothed.fit(
            [place for place, _ in own],
            [one.rate - fit[0] - fit[1] * one.ratio for _, one in own],
            [_NOISE / max(one.errors, 1) for _, one in own],
            spread=_SPREAD,
            length=_LENGTH * math.sqrt(max(len(space.numeric), 1)),
        )

    def _rates(self, candidate: Candidate) -> dict[str, SearchCounts] | None:
        ratios = self.ratios(candidate)
        if ratios is None or set(ratios) != set(self._fits):
            return None
        space = next((one for one in self._session.space.methods if one.method == candidate.method), None)
        place = None if space is None else _place(space, candidate)
        rates = {}
        for name, (start, slope) in self._fits.items():
            left = self._left.get((candidate.method, name))
            offset = 0.0 if left is None or place is None else left.at(place)
            rates[name] = math.exp(start + slope * math.log(ratios[name]) + offset)
        return {name: SearchCounts(_WORDS, round(rate * _WORDS)) for name, rate in rates.items()}

    def _sum(self, domain: str, values: Sequence[float]) -> float:
        """Over the utterances whose loss the base has."""
        return math.fsum(value for value, own in zip(values, self._base[domain], strict=True) if math.isfinite(own))


def _joined(parts: Sequence[Mapping[str, tuple[float, ...]]]) -> dict[str, tuple[float, ...]]:
    return {domain: tuple(value for part in parts for value in part[domain]) for domain in parts[0]}


def _rate(counts: ErrorCounts) -> float:
    """Never zero, which has no logarithm."""
    return max(counts.wer, 0.5 / counts.words)


def _place(space: MethodSpace, candidate: Candidate) -> tuple[float, ...] | None:
    """Where a candidate lies in the unit cube of a method's numbers; None where it does not."""
    values = space.values(candidate)
    return space.places(values) if values is not None and space.holds(values) else None


def _fit(seen: Sequence[_Seen]) -> tuple[float, float]:
    """Intercept and slope of weighted least squares, the slope drawn towards the prior's."""
    x, y = np.array([one.ratio for one in seen]), np.array([one.rate for one in seen])
    weight = np.array([_REFERENCE_WEIGHT if one.candidate.kind in ("base", "expert") else 1.0 for one in seen])
    mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
    spread = float((weight * (x - mean_x) ** 2).sum())
    product = float((weight * (x - mean_x) * (y - mean_y)).sum())
    slope = (product + _CERTAINTY * _EXPONENT) / (spread + _CERTAINTY)
    return float(mean_y - slope * mean_x), max(slope, 0.0)
