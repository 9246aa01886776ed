"""The model × domain table as Markdown, for README and docs."""

from __future__ import annotations

from collections.abc import Sequence

from asrmerge.evaluation.records import Scorecard
from asrmerge.report.data import ReportModel
from asrmerge.report.numbers import percent
from asrmerge.report.table import Cell, build_table


def markdown_table(scorecard: Scorecard, models: Sequence[ReportModel] = (), *, intervals: bool = True) -> str:
    """The table that the HTML report shows: WER in %, the best of each column in bold.

    Args:
        models: order, roles and labels; without any, all of the scorecard's under their own names.
        intervals: whether to show each rate's bootstrap interval.
    """
    shown = tuple(models) or tuple(ReportModel(name) for name in scorecard.models)
    table = build_table(scorecard, shown)
    lines = [["Model", *(column.title for column in table.columns)], ["---", *("---:" for _ in table.columns)]]
    lines += [[row.model.title, *(_cell(cell, intervals) for cell in row.cells)] for row in table.rows]
    note = f"WER in %, pooled per domain; text normaliser: {scorecard.normalizer}; the best of each column in bold"
    note += f"; in brackets {100 * scorecard.level:g} % bootstrap intervals." if intervals else "."
    return "\n".join([*("| " + " | ".join(_escape(text) for text in line) + " |" for line in lines), "", note]) + "\n"


def _cell(cell: Cell, intervals: bool) -> str:
    rate = f"**{percent(cell.wer)}**" if cell.best else percent(cell.wer)
    if cell.score is None or not intervals:
        return rate
    low, high = cell.score.ci
    return f"{rate} ({percent(low)}–{percent(high)})"


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
