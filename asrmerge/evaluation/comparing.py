"""Two models against each other: on every domain by the paired bootstrap and classical tests, and over the target domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from asrmerge.evaluation.bootstrap import Resampling, probability_of_improvement, standard_error, two_sided_p_value
from asrmerge.evaluation.detectable import minimum_detectable_difference
from asrmerge.evaluation.domain_table import DomainTable
from asrmerge.evaluation.estimates import Estimate, macro_average, range_of, worst
from asrmerge.evaluation.mapsswe import mapsswe
from asrmerge.evaluation.metrics.word_error_rate import metric as word_error_rate
from asrmerge.evaluation.multiple_testing import holm
from asrmerge.evaluation.paired_tests import PairedTest, mcnemar_test, sign_test, wilcoxon_test
from asrmerge.evaluation.records import DomainComparison, MacroComparison, PairedTestRecord


@dataclass(frozen=True, eq=False)
class DomainFigures:
    """What is known of one domain: its utterances, its draws, and every model's metrics on them, by model and name."""

    table: DomainTable
    resampling: Resampling
    metrics: Mapping[str, Mapping[str, Estimate]]

    def rate(self, model: str) -> Estimate:
        """A model's word error rate."""
        return self.metrics[model][word_error_rate.name]


def compare_domains(
    model: str, reference: str, domains: Mapping[str, DomainFigures], level: float
) -> tuple[DomainComparison, ...]:
    """``model`` less ``reference`` on every domain; p-values are corrected for the number of domains."""
    differences = {name: found.rate(model) - found.rate(reference) for name, found in domains.items()}
    p_values = {name: two_sided_p_value(difference[1:]) for name, difference in differences.items()}
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    tests = _test_records({name: _paired_tests(model, reference, found.table) for name, found in domains.items()})
    return tuple(
        DomainComparison(
            model=model,
            reference=reference,
            domain=name,
            difference=float(differences[name][0]),
            ci=range_of(differences[name], level),
            probability_of_improvement=probability_of_improvement(differences[name][1:]),
            p_value=p_values[name],
            p_holm=corrected[name],
            resampled_by=found.resampling.unit,
            detectable=minimum_detectable_difference(
                standard_error(differences[name][1:]), found.resampling.units, level=1 - level
            ),
            tests=tests[name],
        )
        for name, found in domains.items()
    )


def compare_summaries(
    model: str, reference: str, targets: Sequence[DomainFigures], level: float
) -> tuple[MacroComparison, MacroComparison]:
    """``model`` less ``reference``: the mean over the target domains, and the worst of each, which may be different domains."""
    one, other = (np.stack([domain.rate(name) for domain in targets]) for name in (model, reference))
    return (
        _macro_comparison("macro", model, reference, macro_average(one) - macro_average(other), level),
        _macro_comparison("worst_domain", model, reference, worst(one) - worst(other), level),
    )


def _macro_comparison(
    figure: Literal["macro", "worst_domain"], model: str, reference: str, difference: Estimate, level: float
) -> MacroComparison:
    return MacroComparison(
        figure=figure,
        model=model,
        reference=reference,
        difference=float(difference[0]),
        ci=range_of(difference, level),
        probability_of_improvement=probability_of_improvement(difference[1:]),
        p_value=two_sided_p_value(difference[1:]),
    )


def _paired_tests(model: str, reference: str, table: DomainTable) -> tuple[PairedTest, ...]:
    words, *_ = table.word_errors(model)
    one, other = (table.word_errors(name)[1:].sum(axis=0) for name in (model, reference))
    return (
        mapsswe(table.references, table.predictions[model], table.predictions[reference]),
        sign_test(one, other, words, table.speakers),
        wilcoxon_test(one, other, words, table.speakers),
        mcnemar_test(one, other),
    )


def _test_records(tests: Mapping[str, Sequence[PairedTest]]) -> dict[str, dict[str, PairedTestRecord]]:
    """By domain and name."""
    corrected = [holm([test.p_value for test in row]) for row in zip(*tests.values(), strict=True)]
    return {
        domain: {
            test.name: PairedTestRecord(
                name=test.name,
                statistic=test.statistic,
                p_value=test.p_value,
                p_holm=row[place],
                units=test.units,
                unit=test.unit,
            )
            for test, row in zip(found, corrected, strict=True)
        }
        for place, (domain, found) in enumerate(tests.items())
    }
