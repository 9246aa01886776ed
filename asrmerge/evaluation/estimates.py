"""A figure and its bootstrap draws in one array, so that whatever is worked out from figures is worked out for every draw too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from asrmerge.evaluation.bootstrap import Resampling, interval
from asrmerge.evaluation.domain_table import DomainTable, Numbers
from asrmerge.evaluation.metric import Metric, ratio
from asrmerge.evaluation.records import Figure, Range

Estimate: TypeAlias = npt.NDArray[
    np.float64
]  # [1 + samples]: the figure of the whole set, then of every draw; NaN: nothing to measure


def estimate_metrics(table: DomainTable, metrics: Mapping[str, Metric], resampling: Resampling) -> dict[str, dict[str, Estimate]]:
    """Every model's metrics by name, all on the same draws."""
    numbers = np.stack(list(table.numbers.values())).transpose(0, 2, 1)  # [models, numbers, utterances]
    sums = sums_and_draws(numbers, resampling)
    return {
        model: {name: metric.value(sums[place, table.columns[name]]) for name, metric in metrics.items()}
        for place, model in enumerate(table.numbers)
    }


def sums_and_draws(numbers: Numbers, resampling: Resampling) -> npt.NDArray[np.float64]:
    """Sums over all utterances, then over every draw's: [..., utterances] → [..., 1 + samples]."""
    whole = numbers.sum(axis=-1, keepdims=True)
    return np.concatenate([whole, resampling.sums(numbers)], axis=-1).astype(np.float64)


def figure(estimate: Estimate, level: float) -> Figure:
    """The value with its interval; ``None`` where there is nothing to measure."""
    value = float(estimate[0])
    return Figure(value=None) if math.isnan(value) else Figure(value=value, ci=range_of(estimate, level))


def range_of(estimate: Estimate, level: float) -> Range:
    """The interval of the draws; the value itself where none of them has anything to measure."""
    low, high = interval(estimate[1:], level)
    return (float(estimate[0]), float(estimate[0])) if math.isnan(low) else (low, high)


def macro_average(rates: npt.NDArray[np.float64]) -> Estimate:
    """The mean over the sets: word error rates [sets, 1 + samples] → [1 + samples]."""
    return np.asarray(rates.mean(axis=0))


def worst(rates: npt.NDArray[np.float64]) -> Estimate:
    """The highest of the sets' word error rates, in each draw; a maximum's draws lie above its value more often than below."""
    return np.asarray(rates.max(axis=0))


def harmonic_accuracy(rates: npt.NDArray[np.float64]) -> Estimate:
    """The harmonic mean of the sets' accuracies: one set that fails cannot be made up for by the others.

    An accuracy is 1 − word error rate, at least 0; a single accuracy of 0 makes the mean 0.
    """
    accuracies = accuracy(rates)
    with np.errstate(divide="ignore"):
        return np.asarray(len(rates) / (1 / accuracies).sum(axis=0))


def retention(model: Estimate, base: Estimate) -> Estimate:
    """The share of the base's accuracy that ``model`` keeps, of their word error rates; not measured where the base has none."""
    return ratio(accuracy(model), accuracy(base))


def gap_closed(model: Estimate, base: Estimate, expert: Estimate, level: float) -> Estimate:
    """How far ``model`` went from the base's word error rate to the expert's: 0 like the base, 1 like the expert.

    Not measured unless the expert is better than the base beyond chance, by the interval of the gap at ``level``: a share of what
    may be nothing means nothing. The few draws without a gap are left out for the same reason.
    """
    gap = base - expert
    low, _ = interval(gap[1:], level)
    return ratio(base - model, np.where(gap > 0, gap, 0.0)) if low > 0 else np.full_like(gap, np.nan)


def accuracy(rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 − word error rate, at least 0."""
    return np.maximum(1 - rates, 0.0)
