"""From hypotheses to a scorecard: models × domains, with counts, metrics, slices, intervals and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from asrmerge.errors import ConfigError, ManifestError
from asrmerge.evaluation import normalizers
from asrmerge.evaluation.bootstrap import Resampling
from asrmerge.evaluation.comparing import DomainFigures, compare_domains, compare_summaries
from asrmerge.evaluation.counts import ErrorCounts, Scheme
from asrmerge.evaluation.domain_table import build_table
from asrmerge.evaluation.estimates import (
    Estimate,
    estimate_metrics,
    figure,
    gap_closed,
    harmonic_accuracy,
    macro_average,
    range_of,
    retention,
    worst,
)
from asrmerge.evaluation.hallucination import find_hallucinations
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.metric_registry import find_metrics
from asrmerge.evaluation.metrics.word_error_rate import metric as word_error_rate
from asrmerge.evaluation.records import DomainScore, Figure, MetricRecord, ModelScore, Scorecard, SliceScore
from asrmerge.evaluation.slices import check_slices, slice_scores
from asrmerge.evaluation.substitutions import substituting

Hypotheses = Mapping[str, Mapping[str, Sequence[Hypothesis]]]  # model → domain → hypotheses


@dataclass(frozen=True)
class Yardsticks:
    """What models are measured against: ``experts`` by domain."""

    base: str | None
    general: str | None
    experts: Mapping[str, str]


def build_scorecard(
    hypotheses: Hypotheses,
    *,
    normalizer: str,
    targets: Sequence[str],
    seed: int,
    candidate: str | None = None,
    references: Sequence[str] | None = None,
    base: str | None = None,
    general: str | None = None,
    experts: Mapping[str, str] | None = None,
    terms: Mapping[str, Sequence[str]] | None = None,
    substitutions: Mapping[str, str] | None = None,
    alignment: Scheme = "levenshtein",
    slices: Sequence[str] = (),
    rtfx: Mapping[str, Mapping[str, float]] | None = None,
    level: float = 0.95,
    samples: int = 1000,
) -> Scorecard:
    """Score ``hypotheses`` (model → domain → utterances).

    An utterance that some model has no transcript of, only an ``error``, is left out for all of them, and counted.

    Args:
        normalizer: the text normaliser, by name.
        targets: the domains that averages are taken over; others, such as the general one, are shown apart.
        seed, level, samples: of the bootstrap. Every domain has draws of its own, which all models share.
        candidate: the model that is compared with each of ``references`` (all other models, unless given).
        base, general: the model before fine-tuning, and the domain whose accuracy it should not lose: give retention.
        experts: by domain, the model that was fine-tuned for it; with ``base``, gives the share of the gap closed.
        terms: by domain, in normalised form, see :func:`~asrmerge.evaluation.terms.read_terms`.
        substitutions: in normalised form, see :func:`~asrmerge.evaluation.substitutions.read_substitutions`.
        alignment: whose word errors are counted, jiwer's or sclite's.
        slices: what word error rates are given by: ``speaker``, ``duration``, or a field of the manifests.
        rtfx: seconds of audio decoded in a second, by model and domain, where it was measured.

    Raises:
        ConfigError: if a named model, domain or slice was not evaluated, or the normaliser is unknown.
        ManifestError: if two models were not evaluated on the same utterances, or none was transcribed by all of them.
    """
    yardsticks = Yardsticks(base, general, experts or {})
    # Every model repeats the same references.
    normalize = cache(substituting(normalizers.normalizer(normalizer), substitutions or {}))
    named_models = [name for name in (candidate, *(references or ()), base, *yardsticks.experts.values()) if name is not None]
    named_domains = [*targets, *([general] if general is not None else []), *yardsticks.experts, *(terms or {})]
    _check_names(hypotheses, targets, named_domains, named_models)
    _check_same_utterances(hypotheses)
    check_slices(next(iter(hypotheses.values())), slices)
    metrics = find_metrics()
    figures: dict[str, DomainFigures] = {}
    sliced: dict[str, dict[str, dict[str, dict[str, SliceScore]]]] = {}  # domain → by → model → value
    for domain in next(iter(hypotheses.values())):
        table = build_table(
            {model: domains[domain] for model, domains in hypotheses.items()},
            normalize=normalize,
            terms=(terms or {}).get(domain, ()),
            metrics=metrics,
            alignment=alignment,
            domain=domain,
        )
        resampling = Resampling(len(table.utterances), samples, seed, table.speakers, domain)
        figures[domain] = DomainFigures(table, resampling, estimate_metrics(table, metrics, resampling))
        sliced[domain] = {by: slice_scores(table, by, level=level, samples=samples, seed=seed, stream=domain) for by in slices}
    against = hypotheses if references is None else references
    pairs = [] if candidate is None else [(candidate, name) for name in against if name != candidate]
    return Scorecard(
        normalizer=normalizer,
        substitutions=dict(substitutions or {}),
        alignment=alignment,
        seed=seed,
        level=level,
        samples=samples,
        targets=tuple(targets),
        base=base,
        general=general,
        experts=dict(yardsticks.experts),
        terms={domain: tuple(found) for domain, found in (terms or {}).items()},
        metrics={
            name: MetricRecord(title=metric.title, higher_is_better=metric.higher_is_better) for name, metric in metrics.items()
        },
        models={
            model: _model_score(
                {
                    domain: _domain_score(
                        model,
                        domain,
                        found,
                        yardsticks,
                        slices={by: scores[model] for by, scores in sliced[domain].items() if scores[model]},
                        rtfx=(rtfx or {}).get(model, {}).get(domain),
                        level=level,
                    )
                    for domain, found in figures.items()
                },
                {target: figures[target].rate(model) for target in targets},
                level,
            )
            for model in hypotheses
        },
        comparisons=tuple(one for pair in pairs for one in compare_domains(*pair, figures, level)),
        macro_comparisons=tuple(
            one for pair in pairs for one in compare_summaries(*pair, [figures[target] for target in targets], level)
        ),
    )


def _domain_score(
    model: str,
    domain: str,
    found: DomainFigures,
    yardsticks: Yardsticks,
    *,
    slices: dict[str, dict[str, SliceScore]],
    rtfx: float | None,
    level: float,
) -> DomainScore:
    table, rate = found.table, found.rate(model)
    made_up = find_hallucinations(table.hypotheses[model])
    total = ErrorCounts(*table.word_errors(model).sum(axis=1).tolist())
    return DomainScore(
        utterances=len(table.utterances),
        failed=table.failed,
        words=total.words,
        substitutions=total.substitutions,
        deletions=total.deletions,
        insertions=total.insertions,
        wer=total.wer,
        ci=range_of(rate, level),
        resampled_by=found.resampling.unit,
        metrics={
            name: figure(estimate, level) for name, estimate in found.metrics[model].items() if name != word_error_rate.name
        },
        slices=slices,
        repeat_loops=len(made_up.loops),
        text_on_silence=len(made_up.on_silence),
        seconds=sum(utterance.duration for utterance in table.utterances),
        rtfx=rtfx,
        retention=_retention(domain, rate, found, yardsticks, level),
        gap_closed=_gap_closed(domain, rate, found, yardsticks, level),
    )


def _retention(domain: str, rate: Estimate, found: DomainFigures, yardsticks: Yardsticks, level: float) -> Figure | None:
    if yardsticks.base is None or domain != yardsticks.general:
        return None
    return figure(retention(rate, found.rate(yardsticks.base)), level)


def _gap_closed(domain: str, rate: Estimate, found: DomainFigures, yardsticks: Yardsticks, level: float) -> Figure | None:
    if yardsticks.base is None or domain not in yardsticks.experts:
        return None
    expert = found.rate(yardsticks.experts[domain])
    return figure(gap_closed(rate, found.rate(yardsticks.base), expert, level), level)


def _model_score(domains: dict[str, DomainScore], targets: Mapping[str, Estimate], level: float) -> ModelScore:
    rates = np.stack(list(targets.values()))
    macro, highest = macro_average(rates), worst(rates)
    return ModelScore(
        domains=domains,
        macro_wer=float(macro[0]),
        macro_ci=range_of(macro, level),
        harmonic_accuracy=figure(harmonic_accuracy(rates), level),
        worst_domain=max(targets, key=lambda target: float(targets[target][0])),
        worst_wer=float(highest[0]),
        worst_ci=range_of(highest, level),
    )


def _check_names(hypotheses: Hypotheses, targets: Sequence[str], domains: Iterable[str], models: Iterable[str]) -> None:
    if not hypotheses or not targets:
        raise ConfigError("A scorecard needs at least one model and one target domain; evaluate some.")
    for model in models:
        if model not in hypotheses:
            raise ConfigError(f"The model '{model}' was not evaluated; choose one of {', '.join(hypotheses)}.")
    first = next(iter(hypotheses))
    for model, evaluated in hypotheses.items():
        if missing := sorted(({*domains} | hypotheses[first].keys()) - evaluated.keys()):
            raise ConfigError(f"The model '{model}' was not evaluated on {', '.join(missing)}; evaluate it there too.")
        if further := sorted(evaluated.keys() - hypotheses[first].keys()):
            raise ConfigError(f"The model '{first}' was not evaluated on {', '.join(further)}; evaluate it there too.")


def _check_same_utterances(hypotheses: Hypotheses) -> None:
    """References and hypotheses that are filtered out of step make rates of different sets look comparable."""
    first, *others = hypotheses
    for domain, expected in hypotheses[first].items():
        if not expected:
            raise ManifestError(f"There are no utterances of '{domain}'; check its test manifest.")
        for model in others:
            found = hypotheses[model][domain]
            if len(found) != len(expected):
                raise ManifestError(
                    f"On '{domain}', '{first}' has {len(expected)} utterances and '{model}' has {len(found)}; "
                    "evaluate both on the same manifest."
                )
            for one, other in zip(expected, found, strict=True):
                if (one.identifier, one.text) != (other.identifier, other.text):
                    raise ManifestError(
                        f"On '{domain}', '{first}' has utterance '{one.identifier}' where '{model}' has '{other.identifier}', or "
                        "their reference texts differ; evaluate both on the same manifest."
                    )
