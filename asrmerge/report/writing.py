"""Writing an evaluation's tables: Markdown for reading, LaTeX for a paper, CSV for going on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asrmerge.evaluation.records import Scorecard
from asrmerge.files import write_text
from asrmerge.report.csv_tables import comparisons_csv, figures_csv, slices_csv
from asrmerge.report.data import ReportModel
from asrmerge.report.latex import latex_tables
from asrmerge.report.markdown import markdown_tables


def write_tables(folder: Path | str, scorecard: Scorecard, models: Sequence[ReportModel] = ()) -> tuple[Path, ...]:
    """Write ``tables.md``, ``tables.tex``, ``figures.csv``, ``comparisons.csv`` and ``slices.csv``, each atomically; their paths.

    Args:
        models: order and labels in the first two; without any, all of the scorecard's under their own names. The CSV files have
            every model by its name.
    """
    texts = {
        "tables.md": markdown_tables(scorecard, models),
        "tables.tex": latex_tables(scorecard, models),
        "figures.csv": figures_csv(scorecard),
        "comparisons.csv": comparisons_csv(scorecard),
        "slices.csv": slices_csv(scorecard),
    }
    paths = {Path(folder) / name: text for name, text in texts.items()}
    for path, text in paths.items():
        # A lone surrogate in a name cannot be written as UTF-8: it is shown as "?".
        write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    return tuple(paths)
