"""What the scorecard's comparisons say of the report's main model against the others."""

from __future__ import annotations

from typing import Literal

from asrmerge.evaluation.records import DomainComparison, MacroComparison
from asrmerge.report.data import ReportData, ReportModel

Mark = Literal["better", "worse", "open"]
Summary = Literal["macro", "worst_domain"]


def domain_comparison(data: ReportData, reference: ReportModel, domain: str) -> DomainComparison | None:
    """The main model against ``reference`` on one domain."""
    wanted = (data.focus.name, reference.name, domain)
    return next((item for item in data.scorecard.comparisons if (item.model, item.reference, item.domain) == wanted), None)


def summary_comparison(data: ReportData, reference: ReportModel, figure: Summary = "macro") -> MacroComparison | None:
    """The main model against ``reference`` over the target domains."""
    wanted = (figure, data.focus.name, reference.name)
    return next((item for item in data.scorecard.macro_comparisons if (item.figure, item.model, item.reference) == wanted), None)


def compared(data: ReportData) -> tuple[ReportModel, ...]:
    """The models that the main one was compared with in every domain, in the report's order."""
    return tuple(
        model for model in data.models if all(domain_comparison(data, model, domain) is not None for domain in data.domains)
    )


def marks(data: ReportData) -> dict[tuple[str, str | None], Mark]:
    """By model and domain (``None``: the macro average): whether the main model is better or worse there beyond chance.

    In a domain by the paired bootstrap's p-value, corrected by Holm for the number of domains.
    """
    found: dict[tuple[str, str | None], Mark] = {}
    for model in data.models:
        for domain in data.domains:
            if comparison := domain_comparison(data, model, domain):
                found[model.name, domain] = _mark(data, comparison.difference, comparison.p_holm)
        if summary := summary_comparison(data, model):
            found[model.name, None] = _mark(data, summary.difference, summary.p_value)
    return found


def _mark(data: ReportData, difference: float, p_value: float) -> Mark:
    if p_value >= 1 - data.scorecard.level or difference == 0:
        return "open"
    return "better" if difference < 0 else "worse"
