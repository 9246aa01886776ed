"""The worst utterances and the most frequent confusions of each domain, for paper and for browsers without scripts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from asrmerge.evaluation.counts import Kind
from asrmerge.report.data import ReportData, title_of
from asrmerge.report.utterances import AlignedUtterance

WORST = 5  # utterances of each domain
MOST = 8  # confusions of each kind and domain


@dataclass(frozen=True)
class Confusion:
    """A word, what was recognised instead, and how often; ``""`` is nothing."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class DomainDigest:
    """A domain's worst utterances and most frequent errors by one model."""

    domain: str
    title: str
    worst: tuple[AlignedUtterance, ...]
    confusions: tuple[Confusion, ...]
    deletions: tuple[Confusion, ...]
    insertions: tuple[Confusion, ...]


def digests(data: ReportData, utterances: Sequence[AlignedUtterance]) -> tuple[DomainDigest, ...]:
    """Per domain, what the report's main model gets wrong."""
    model = data.models.index(data.focus)
    by_domain = {domain: [utterance for utterance in utterances if utterance.domain == domain] for domain in data.domains}
    return tuple(_digest(domain, found, model) for domain, found in by_domain.items() if found)


def _digest(domain: str, utterances: Sequence[AlignedUtterance], model: int) -> DomainDigest:
    wrong = [utterance for utterance in utterances if utterance.errors(model)]
    worst = sorted(wrong, key=lambda utterance: (-utterance.errors(model), -utterance.wer(model), utterance.identifier))
    return DomainDigest(
        domain=domain,
        title=title_of(domain),
        worst=tuple(worst[:WORST]),
        confusions=_most_frequent(wrong, model, "substitution"),
        deletions=_most_frequent(wrong, model, "deletion"),
        insertions=_most_frequent(wrong, model, "insertion"),
    )


def _most_frequent(utterances: Sequence[AlignedUtterance], model: int, kind: Kind) -> tuple[Confusion, ...]:
    counts = Counter(
        (pair.reference or "", pair.hypothesis or "")
        for utterance in utterances
        for pair in utterance.alignments[model]
        if pair.kind == kind
    )
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    return tuple(Confusion(said, heard, count) for (said, heard), count in ranked)
