"""Every utterance's alignments: packed for the browser, and the worst of each domain for paper and browsers without scripts.

A packed alignment is a list over the reference's words: ``3`` is three right words, ``-2`` two deleted ones,
``"~heard"`` a substitution and ``"+heard"`` an insertion. Ten thousand utterances of eight models then fit in a few megabytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from asrmerge.errors import ManifestError
from asrmerge.evaluation.counts import AlignedPair, Scheme, align
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.evaluation.substitutions import substituting
from asrmerge.report.data import ReportData, title_of

Packed = list[int | str]

WORST = 5  # utterances of each domain on paper
CONFUSIONS = 8  # most frequent substitutions of each domain


@dataclass(frozen=True)
class AlignedUtterance:
    """An utterance with one alignment per model, in the report's order."""

    domain: str
    identifier: str
    speaker: str | None
    duration: float
    reference: str
    alignments: tuple[tuple[AlignedPair, ...], ...]

    def errors(self, model: int) -> int:
        """Of that model."""
        return sum(pair.kind != "equal" for pair in self.alignments[model])

    def wer(self, model: int) -> float:
        """Of that model, on this utterance alone."""
        return self.errors(model) / max(len(self.reference.split()), 1)


@dataclass(frozen=True)
class Confusion:
    """A word, what was recognised instead, and how often."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class DomainDigest:
    """A domain's worst utterances and most frequent substitutions by one model."""

    domain: str
    title: str
    worst: tuple[AlignedUtterance, ...]
    confusions: tuple[Confusion, ...]


def align_utterances(data: ReportData) -> tuple[AlignedUtterance, ...]:
    """All utterances, in the order of domains and files, normalised as scored; none unless every model has hypotheses."""
    if any(model.name not in data.hypotheses for model in data.models):
        return ()
    normalize = cache(substituting(normalizer(data.scorecard.normalizer), data.scorecard.substitutions))
    found = []
    for domain in data.domains:
        columns = [data.hypotheses[model.name].get(domain, ()) for model in data.models]
        if len({len(column) for column in columns}) > 1:
            raise ManifestError(
                f"The models have different numbers of utterances on '{domain}'; evaluate all on the same manifest."
            )
        for versions in zip(*columns, strict=True):
            if any(version.error for version in versions):  # left out of the scorecard too
                continue
            reference = " ".join(normalize(versions[0].text).split())
            predictions = [normalize(version.prediction) for version in versions]
            found.append(_utterance(domain, versions[0], reference, predictions, data.scorecard.alignment))
    return tuple(found)


def _utterance(domain: str, first: Hypothesis, reference: str, predictions: Sequence[str], scheme: Scheme) -> AlignedUtterance:
    return AlignedUtterance(
        domain=domain,
        identifier=first.identifier,
        speaker=first.speaker,
        duration=first.duration,
        reference=reference,
        alignments=tuple(_align(reference, prediction, scheme) for prediction in predictions),
    )


def _align(reference: str, prediction: str, scheme: Scheme) -> tuple[AlignedPair, ...]:
    if reference == prediction:  # most of what a good model says; aligning it would take most of the time
        return tuple(AlignedPair("equal", word, word) for word in reference.split())
    return align(reference, prediction, scheme)


def digests(data: ReportData, utterances: Sequence[AlignedUtterance]) -> tuple[DomainDigest, ...]:
    """Per domain, what the report's main model gets wrong."""
    model = data.models.index(data.focus)
    return tuple(
        _digest(domain, [utterance for utterance in utterances if utterance.domain == domain], model)
        for domain in data.domains
        if any(utterance.domain == domain for utterance in utterances)
    )


def _digest(domain: str, utterances: Sequence[AlignedUtterance], model: int) -> DomainDigest:
    wrong = [utterance for utterance in utterances if utterance.errors(model)]
    worst = sorted(wrong, key=lambda utterance: (-utterance.errors(model), -utterance.wer(model), utterance.identifier))
    counts = Counter(
        (pair.reference, pair.hypothesis)
        for utterance in utterances
        for pair in utterance.alignments[model]
        if pair.kind == "substitution"
    )
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CONFUSIONS]
    confusions = tuple(Confusion(str(said), str(heard), count) for (said, heard), count in ranked)
    return DomainDigest(domain, title_of(domain), tuple(worst[:WORST]), confusions)


def pack(alignment: Sequence[AlignedPair]) -> Packed:
    """The browser's form of an alignment."""
    packed: Packed = []
    for pair in alignment:
        if pair.kind == "substitution":
            packed.append(f"~{pair.hypothesis}")
        elif pair.kind == "insertion":
            packed.append(f"+{pair.hypothesis}")
        else:
            _count(packed, 1 if pair.kind == "equal" else -1)
    return packed


def _count(packed: Packed, step: int) -> None:
    """Lengthen the last run if it is of the same kind."""
    if packed and isinstance(packed[-1], int) and packed[-1] * step > 0:
        packed[-1] += step
    else:
        packed.append(step)


def browser_data(data: ReportData, utterances: Sequence[AlignedUtterance]) -> dict[str, object]:
    """What the page's script reads; models and domains by their index."""
    return {
        "models": [
            {"name": model.name, "title": model.title, "role": model.role, "domain": model.domain} for model in data.models
        ],
        "domains": [{"name": domain, "title": title_of(domain)} for domain in data.domains],
        "focus": data.models.index(data.focus),
        "utterances": [
            {
                "domain": data.domains.index(utterance.domain),
                "id": utterance.identifier,
                "speaker": utterance.speaker,
                "seconds": round(utterance.duration, 2),
                "text": utterance.reference,
                "heard": [pack(alignment) for alignment in utterance.alignments],
            }
            for utterance in utterances
        ],
    }
