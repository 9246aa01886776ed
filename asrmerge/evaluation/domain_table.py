"""One domain's utterances, scored for every model: the table that its figures, slices and comparisons are read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import jiwer
import numpy as np
import numpy.typing as npt

from asrmerge.errors import ManifestError
from asrmerge.evaluation.alignment import DELETION, EQUAL, INSERTION, SUBSTITUTION, Path, sclite_paths
from asrmerge.evaluation.counts import Scheme
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.metric import Metric
from asrmerge.evaluation.metrics.word_error_rate import metric as word_error_rate
from asrmerge.evaluation.normalizers import Normalizer
from asrmerge.evaluation.phrases import Phrases
from asrmerge.evaluation.scored import ScoredUtterance

ALIGNED_AT_ONCE = 1000  # enough to be quick, few enough to be forgotten soon
Numbers = npt.NDArray[np.int64]
_MOVES = {"equal": EQUAL, "substitute": SUBSTITUTION, "delete": DELETION, "insert": INSERTION}


@dataclass(frozen=True)
class DomainTable:
    """The utterances that every model transcribed, in order.

    ``hypotheses``, ``predictions``: by model, as written and normalised [utterances]; ``references``: normalised. ``numbers``: by
    model, the metrics' counts side by side [utterances, numbers]. ``columns``: where each metric's stand. ``failed``: utterances
    that a model could not transcribe.
    """

    hypotheses: Mapping[str, tuple[Hypothesis, ...]]
    references: tuple[str, ...]
    predictions: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, Numbers]
    columns: Mapping[str, slice]
    failed: int

    @property
    def utterances(self) -> tuple[Hypothesis, ...]:
        """What all models share: identifier, speaker, duration, fields."""
        return next(iter(self.hypotheses.values()))

    @property
    def speakers(self) -> list[str | None]:
        return [utterance.speaker for utterance in self.utterances]

    def word_errors(self, model: str) -> Numbers:
        """Reference words, substitutions, deletions and insertions of every utterance [4, utterances]."""
        return self.numbers[model][:, self.columns[word_error_rate.name]].T


def build_table(
    hypotheses: Mapping[str, Sequence[Hypothesis]],
    *,
    normalize: Normalizer,
    terms: Sequence[str],
    metrics: Mapping[str, Metric],
    alignment: Scheme,
    domain: str,
) -> DomainTable:
    """Score one domain's ``hypotheses`` (by model, the same utterances in the same order).

    Each pair of texts is aligned and measured once, however many utterances and models have it.

    Raises:
        ManifestError: if every utterance lacks some model's transcript.
    """
    rows = list(zip(*hypotheses.values(), strict=True))
    whole = [row for row in rows if not any(hypothesis.error for hypothesis in row)]
    if not whole:
        raise ManifestError(
            f"None of the {len(rows)} utterances of '{domain}' was transcribed by every model ({_first_error(rows)}); mend the "
            "audio and transcribe again."
        )
    kept = {model: tuple(row[place] for row in whole) for place, model in enumerate(hypotheses)}
    references = tuple(normalize(row[0].text) for row in whole)
    predictions = {model: tuple(normalize(one.prediction) for one in found) for model, found in kept.items()}
    distinct: dict[tuple[str, str], int] = {}
    places = {
        model: [distinct.setdefault(pair, len(distinct)) for pair in zip(references, texts, strict=True)]
        for model, texts in predictions.items()
    }
    scored = _align(list(distinct), Phrases.of(terms), alignment)
    counts = [[metric.counts(one) for metric in metrics.values()] for one in scored]
    numbers = np.array([[number for numbers in row for number in numbers] for row in counts], dtype=np.int64)
    ends = [0, *accumulate(map(len, counts[0]))]
    return DomainTable(
        hypotheses=kept,
        references=references,
        predictions=predictions,
        numbers={model: numbers[found] for model, found in places.items()},
        columns={name: slice(*span) for name, span in zip(metrics, pairwise(ends), strict=True)},
        failed=len(rows) - len(whole),
    )


def _align(pairs: Sequence[tuple[str, str]], terms: Phrases, alignment: Scheme) -> Iterator[ScoredUtterance]:
    align = sclite_paths if alignment == "sclite" else levenshtein_paths
    for start in range(0, len(pairs), ALIGNED_AT_ONCE):
        references, hypotheses = zip(*pairs[start : start + ALIGNED_AT_ONCE], strict=True)
        texts = [[text.split() for text in side] for side in (references, hypotheses)]
        for reference, hypothesis, path in zip(*texts, align(*texts), strict=True):
            yield ScoredUtterance(tuple(reference), tuple(hypothesis), path, terms)


def levenshtein_paths(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> list[Path]:
    """jiwer's alignments, as moves."""
    output = jiwer.process_words([" ".join(words) for words in references], [" ".join(words) for words in hypotheses])
    return [
        np.repeat(
            np.array([_MOVES[chunk.type] for chunk in chunks], dtype=np.uint8),
            [max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx) for chunk in chunks],
        )
        for chunks in output.alignments
    ]


def _first_error(rows: Sequence[Sequence[Hypothesis]]) -> str:
    return next((one.error for row in rows for one in row if one.error), "")
