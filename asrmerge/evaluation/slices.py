"""Word error rates of parts of a set: by speaker, by duration, by any further field of the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from asrmerge.errors import ConfigError
from asrmerge.evaluation.bootstrap import MINIMUM_SPEAKERS, Resampling
from asrmerge.evaluation.domain_table import DomainTable
from asrmerge.evaluation.estimates import range_of, sums_and_draws
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.metrics.word_error_rate import metric as word_error_rate
from asrmerge.evaluation.records import SliceScore
from asrmerge.speech.manifest import Utterance
from asrmerge.validation import suggest

Sliceable: TypeAlias = Hypothesis | Utterance
SPEAKER, DURATION = "speaker", "duration"
DURATION_BINS = (5.0, 10.0, 20.0, 30.0)  # seconds: Whisper's window ends at 30
UNKNOWN = "unknown"


def slice_scores(
    table: DomainTable, by: str, *, bins: Sequence[float] = DURATION_BINS, level: float, samples: int, seed: int, stream: str
) -> dict[str, dict[str, SliceScore]]:
    """By model and value of ``by``, every model on the same draws; none where the set knows nothing of ``by``.

    A slice of fewer than ``MINIMUM_SPEAKERS`` units to draw from, utterances or speakers, has no interval.
    """
    scores: dict[str, dict[str, SliceScore]] = {model: {} for model in table.numbers}
    for value, places in _slices(table.utterances, by, bins).items():
        speakers = [table.utterances[place].speaker for place in places]
        resampling = Resampling(len(places), samples, seed, speakers, f"{stream}/{by}/{value}")
        numbers = np.stack([table.word_errors(model)[:, places] for model in table.numbers])
        enough = resampling.units >= MINIMUM_SPEAKERS
        sums = sums_and_draws(numbers, resampling) if enough else numbers.sum(axis=-1, keepdims=True)
        for model, found in zip(table.numbers, sums, strict=True):
            estimate = word_error_rate.value(found)
            words, *errors = found[:, 0]
            scores[model][value] = SliceScore(
                utterances=len(places),
                words=int(words),
                errors=int(sum(errors)),
                wer=float(estimate[0]),
                ci=range_of(estimate, level) if enough else None,
            )
    return scores


def known_slices(domains: Mapping[str, Sequence[Sliceable]]) -> set[str]:
    """What the utterances can be sliced by."""
    utterances = [utterance for found in domains.values() for utterance in found]
    fields = {name for utterance in utterances for name in utterance.fields}
    return fields | {DURATION} | ({SPEAKER} if any(utterance.speaker is not None for utterance in utterances) else set())


def check_slices(domains: Mapping[str, Sequence[Sliceable]], slices: Iterable[str]) -> None:
    """Check that some utterance knows of each of ``slices``.

    Raises:
        ConfigError: none does.
    """
    known = known_slices(domains)
    for name in slices:
        if name not in known:
            raise ConfigError(f"No utterance has a '{name}' to slice by; {suggest(name, known)}.")


def _slices(utterances: Sequence[Hypothesis], by: str, bins: Sequence[float]) -> dict[str, list[int]]:
    """Places of the utterances by value: bins from short to long, else in alphabetical order with the unknown last."""
    values = [_value(utterance, by, bins) for utterance in utterances]
    if not any(values):
        return {}
    order = duration_labels(bins) if by == DURATION else sorted({value for value in values if value is not None})
    slices = {value: [place for place, one in enumerate(values) if one == value] for value in order}
    slices[UNKNOWN] = slices.get(UNKNOWN, []) + [place for place, one in enumerate(values) if one is None]
    return {value: places for value, places in slices.items() if places}


def _value(utterance: Hypothesis, by: str, bins: Sequence[float]) -> str | None:
    if by == SPEAKER:
        return utterance.speaker
    if by == DURATION:
        return duration_labels(bins)[int(np.searchsorted(bins, utterance.duration, side="right"))]
    return utterance.fields.get(by) or None


def duration_labels(bins: Sequence[float]) -> list[str]:
    """One name per bin, in seconds: an utterance as long as a bound belongs to the longer ones."""
    bounds = [f"{bound:g}" for bound in bins]
    return [
        f"under {bounds[0]} s",
        *(f"{low}-{high} s" for low, high in pairwise(bounds)),
        f"{bounds[-1]} s on",
    ]
