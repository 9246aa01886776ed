"""Tables of figures as LaTeX, to be read by ``\\input`` in a paper that loads booktabs and adjustbox."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asrmerge.evaluation.records import Scorecard
from asrmerge.report.data import ReportModel
from asrmerge.report.text_tables import Entry, TextTable, all_tables, how_measured

_HEAD = "% Needs \\usepackage{booktabs} and \\usepackage{adjustbox}, which narrows what is wider than the page.\n"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # which TeX refuses
_WRITTEN = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "`": r"\textasciigrave{}",
        # After the end of a row, TeX would take these for its options.
        "[": "{[}",
        "]": "{]}",
        "*": "{*}",
        "–": r"\textendash{}",
        "−": "$-$",
        "×": r"$\times$",
        "→": r"$\rightarrow$",
        "λ": r"$\lambda$",
        "…": r"\dots{}",
        "’": r"\textquoteright{}",
        "\N{NO-BREAK SPACE}": "~",
    }
)


def latex_tables(scorecard: Scorecard, models: Sequence[ReportModel] = ()) -> str:
    """Every table of an evaluation, in a ``table`` environment of its own; the first caption says how all of it was measured."""
    first, *others = all_tables(scorecard, models)
    measured = f"{first.note}; {how_measured(scorecard)}"
    notes = [measured, *(table.note for table in others)]
    return "\n".join([_HEAD, *(_environment(table, note) for table, note in zip((first, *others), notes, strict=True))])


def escape_latex(text: str) -> str:
    """``text`` as one line in which TeX finds no command; letters stay as they are, which takes a UTF-8 engine with a font."""
    line = re.sub(" +", " ", _CONTROL.sub(" ", text)).strip(" ")
    # Two hyphens in a row would be drawn as one dash.
    return re.sub("-(?=-)", "-{}", line.translate(_WRITTEN))


def _environment(table: TextTable, note: str) -> str:
    label = re.sub("[^a-z0-9]+", "-", table.title.lower()).strip("-")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}: {escape_latex(note)}.}}",
        rf"\label{{tab:{label}}}",
        r"\begin{adjustbox}{max width=\linewidth}",
        rf"\begin{{tabular}}{{{'l' * table.texts}{'r' * (len(table.columns) - table.texts)}}}",
        r"\toprule",
        _row([escape_latex(column) for column in table.columns]),
        r"\midrule",
        *(_row([_entry(entry) for entry in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _row(entries: Sequence[str]) -> str:
    return f"{' & '.join(entries)} \\\\"


def _entry(entry: Entry) -> str:
    value = escape_latex(entry.value)
    bold = rf"\textbf{{{value}}}" if entry.best else value
    return f"{bold} ({escape_latex(entry.interval)})" if entry.interval else bold
