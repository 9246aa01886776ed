"""Tables of figures as Markdown, for README, docs and model cards."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asrmerge.evaluation.records import Scorecard
from asrmerge.report.data import ReportModel
from asrmerge.report.text_tables import Entry, TextTable, all_tables, how_measured, rate_table

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~$&#]")


def markdown_table(scorecard: Scorecard, models: Sequence[ReportModel] = (), *, intervals: bool = True) -> str:
    """The table that the HTML report shows: WER in %, the best of each column in bold.

    Args:
        models: order, roles and labels; without any, all of the scorecard's under their own names.
        intervals: whether to show each rate's bootstrap interval.
    """
    table = rate_table(scorecard, models, intervals=intervals)
    note = f"{table.note}; text normaliser: {scorecard.normalizer}"
    note += f"; in brackets {100 * scorecard.level:g} % bootstrap intervals" if intervals else ""
    return f"{markdown_grid(table)}\n{escape_markdown(note)}.\n"


def markdown_tables(scorecard: Scorecard, models: Sequence[ReportModel] = ()) -> str:
    """Every table of an evaluation under a heading of its own, after a line that says how all of it was measured."""
    parts = [f"All figures: {escape_markdown(how_measured(scorecard))}.\n"]
    parts += [f"## {escape_markdown(table.title)}\n\n{markdown_with_note(table)}" for table in all_tables(scorecard, models)]
    return "\n".join(parts)


def markdown_with_note(table: TextTable) -> str:
    """The table, and its note as a sentence."""
    return f"{markdown_grid(table)}\n{escape_markdown(table.note[:1].upper() + table.note[1:])}.\n"


def markdown_grid(table: TextTable) -> str:
    """The table alone."""
    lines = [[escape_markdown(column) for column in table.columns], _rule(table)]
    lines += [[_entry(entry) for entry in row] for row in table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rule(table: TextTable) -> list[str]:
    return ["---" if place < table.texts else "---:" for place in range(len(table.columns))]


def escape_markdown(text: str) -> str:
    """``text`` as one line that no Markdown renderer takes for markup."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def _entry(entry: Entry) -> str:
    value = escape_markdown(entry.value)
    bold = f"**{value}**" if entry.best else value
    return f"{bold} ({escape_markdown(entry.interval)})" if entry.interval else bold
