"""The model × domain table, ready to be drawn in any markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from asrmerge.evaluation.records import DomainScore, Range, Scorecard
from asrmerge.report.data import ReportModel, domains_of, title_of

ColumnKind = Literal["target", "macro", "apart"]


@dataclass(frozen=True)
class Column:
    """A domain, or the mean of the target domains (``domain`` is ``None``)."""

    domain: str | None
    kind: ColumnKind

    @property
    def title(self) -> str:
        """The heading."""
        return "Macro average" if self.domain is None else title_of(self.domain)


@dataclass(frozen=True)
class Cell:
    """``heat`` is 0 for the column's lowest rate and 1 for its highest; ``home`` marks an expert in its own domain.

    ``score`` is that of the domain; the macro average has none.
    """

    column: Column
    wer: float
    ci: Range
    score: DomainScore | None
    best: bool
    heat: float
    home: bool


@dataclass(frozen=True)
class Row:
    """One model."""

    model: ReportModel
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Columns: target domains, their macro average, domains that stand apart."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def build_table(scorecard: Scorecard, models: Sequence[ReportModel]) -> Table:
    """The scorecard's figures for ``models``, in their order."""
    domains = domains_of(scorecard)
    targets = [Column(domain, "target") for domain in domains if domain in scorecard.targets]
    apart = [Column(domain, "apart") for domain in domains if domain not in scorecard.targets]
    columns = (*targets, Column(None, "macro"), *apart)
    rows = tuple(Row(model, tuple(_cell(scorecard, models, model, column) for column in columns)) for model in models)
    return Table(columns, rows)


def _cell(scorecard: Scorecard, models: Sequence[ReportModel], model: ReportModel, column: Column) -> Cell:
    rates = [_rate(scorecard, other, column) for other in models]
    rate, low, high = _rate(scorecard, model, column), min(rates), max(rates)
    own = scorecard.models[model.name]
    score = None if column.domain is None else own.domains[column.domain]
    return Cell(
        column=column,
        wer=rate,
        ci=own.macro_ci if score is None else score.ci,
        score=score,
        best=len(models) > 1 and rate == low,
        heat=(rate - low) / (high - low) if high > low else 0.0,
        home=model.role == "expert" and column.domain is not None and model.domain == column.domain,
    )


def _rate(scorecard: Scorecard, model: ReportModel, column: Column) -> float:
    score = scorecard.models[model.name]
    return score.macro_wer if column.domain is None else score.domains[column.domain].wer
