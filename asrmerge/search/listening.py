"""From transcripts to counts: what a search asks of the validation audio, decoded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from asrmerge.evaluation.domain_table import levenshtein_paths
from asrmerge.evaluation.normalizers import Normalizer
from asrmerge.evaluation.phrases import Phrases
from asrmerge.evaluation.scored import ScoredUtterance
from asrmerge.search.blocks import AudioPlan
from asrmerge.search.candidate import Candidate, CandidateError
from asrmerge.search.counts import SearchCounts
from asrmerge.search.evaluator import Texts
from asrmerge.search.hypothesis_cache import HypothesisCache, merge_hash
from asrmerge.search.outcome import Asked, Outcome
from asrmerge.search.racing import Totals

_AT_ONCE = 4  # candidates that are decoded beside each other, whatever the number of workers


class Hearing(Protocol):
    """What makes the transcripts: a ``CandidateEvaluator``."""

    plan: AudioPlan

    def transcribe(self, asked: Asked) -> Sequence[Texts | CandidateError]: ...


class Listener:
    """Counts the errors of candidates, utterance by utterance; what the cache knows is not decoded again."""

    def __init__(
        self,
        evaluator: Hearing,
        cache: HypothesisCache,
        normalize: Normalizer,
        terms: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """``terms``: domain → its terms, normalised, for term recall."""
        self._evaluator, self._cache, self._normalize = evaluator, cache, normalize
        self._plan = evaluator.plan
        self._terms = {domain: Phrases.of((terms or {}).get(domain, ())) for domain in self._plan.utterances}
        self._words = {
            domain: {one.identifier: normalize(one.text).split() for one in found}
            for domain, found in self._plan.utterances.items()
        }

    @property
    def totals(self) -> dict[str, Totals]:
        """Of each domain's references."""
        return {
            domain: Totals(
                len(found),
                sum(len(self._words[domain][one.identifier]) for one in found),
                sum(len(self._terms[domain].find(self._words[domain][one.identifier])) for one in found),
            )
            for domain, found in self._plan.utterances.items()
        }

    def __call__(self, asked: Asked) -> list[Outcome]:
        """The outcome of every candidate in the look that is asked for.

        Raises:
            SearchError: a worker process died.
        """
        missing = [(candidate, look) for candidate, look in asked if not self._is_known(candidate, look)]
        errors: dict[str, str] = {}
        # A few at a time: a kill loses no more than what is under way.
        for part in (missing[start : start + _AT_ONCE] for start in range(0, len(missing), _AT_ONCE)):
            for (candidate, look), found in zip(part, self._evaluator.transcribe(part), strict=True):
                if isinstance(found, CandidateError):
                    errors[merge_hash(candidate)] = str(found)
                else:
                    self._keep(candidate, look, found)
        return [self._outcome(merge_hash(candidate), look, errors) for candidate, look in asked]

    def _keep(self, candidate: Candidate, look: int, found: Texts) -> None:
        for domain, texts in found.items():
            block = self._plan.block(domain, look)
            if block:
                by_name = {one.identifier: text for one, text in zip(block, texts, strict=True)}
                self._cache.add(merge_hash(candidate), domain, by_name)

    def _is_known(self, candidate: Candidate, look: int) -> bool:
        merge = merge_hash(candidate)
        return all(
            one.identifier in self._cache.get(merge, domain)
            for domain in self._plan.utterances
            for one in self._plan.block(domain, look)
        )

    def _outcome(self, merge: str, look: int, errors: Mapping[str, str]) -> Outcome:
        if merge in errors:
            return Outcome(None, errors[merge])
        return Outcome({domain: self._scores(merge, domain, look) for domain in self._plan.utterances})

    def _scores(self, merge: str, domain: str, look: int) -> tuple[SearchCounts, ...]:
        texts = self._cache.get(merge, domain)
        names = [one.identifier for one in self._plan.block(domain, look)]
        if not names:
            return ()
        references = [self._words[domain][name] for name in names]
        hypotheses = [self._normalize(texts[name]).split() for name in names]
        paths = levenshtein_paths(references, hypotheses)
        return tuple(
            _counts(ScoredUtterance(tuple(reference), tuple(hypothesis), path, self._terms[domain]))
            for reference, hypothesis, path in zip(references, hypotheses, paths, strict=True)
        )


def _counts(scored: ScoredUtterance) -> SearchCounts:
    errors = scored.errors
    return SearchCounts(
        errors.words,
        errors.substitutions,
        errors.deletions,
        errors.insertions,
        terms=len(scored.reference_terms),
        found=scored.term_hits,
    )
