"""Tables as Markdown, LaTeX and CSV: the scorecard's figures, in markup that nothing in a name can break."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from card_sample import sample_scorecard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_sample import DOMAINS, MODELS

from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.records import DomainComparison, Scorecard
from asrmerge.evaluation.scorecard import build_scorecard
from asrmerge.report import ReportModel
from asrmerge.report.csv_tables import comparisons_csv, figures_csv, slices_csv
from asrmerge.report.latex import escape_latex, latex_tables
from asrmerge.report.markdown import markdown_grid, markdown_tables
from asrmerge.report.text_tables import Entry, TextTable, all_tables, comparison_tables, how_measured, metric_tables
from asrmerge.report.writing import write_tables

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30) | st.text(
    '\\`*_{}[]<>|~$&#%^-" \n', max_size=12
)


@pytest.fixture(scope="module")
def scorecard() -> Scorecard:
    return sample_scorecard()


def heard(name: str, *predictions: str) -> list[Hypothesis]:
    texts = ("one two three four", "five six")
    return [
        Hypothesis(f"{name}-{number}", Path("a.wav"), 1.5, text, prediction, silent=number == 1)
        for number, (text, prediction) in enumerate(zip(texts, predictions, strict=True))
    ]


def small_scorecard(home: str = "home", away: str = "away", other: str = "b") -> Scorecard:
    found = {
        "a": {home: heard("h", "one two three four", "five six"), away: heard("a", "one two", "five")},
        other: {home: heard("h", "one two tree", "five six"), away: heard("a", "one two three four", "nine six")},
    }
    return build_scorecard(found, normalizer="none", targets=[home], candidate="a", seed=0, samples=20)


def test_a_small_table_is_as_expected() -> None:
    table, summary, comparison, sets, *further = all_tables(small_scorecard(), (ReportModel("a", "merged"), ReportModel("b")))
    assert markdown_grid(table) == (
        "| Model | Home | Macro average | Away |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| Merged | **0.0** (0.0–0.0) | **0.0** | 50.0 (50.0–50.0) |\n"
        "| b | 33.3 (0.0–50.0) | 33.3 | **16.7** (0.0–50.0) |\n"
    )
    assert [cell.value for cell in summary.rows[0]] == ["Merged", "0.0", "100.0", "Home", "0.0", "0", "2"]
    assert comparison.title == "Merged against b"
    assert [row[0].value for row in comparison.rows] == ["Home", "Away", "Macro average", "Worst domain"]
    assert [[cell.value for cell in row] for row in sets.rows] == [
        ["Home", "2", "0", "6", "0.1", "utterance"],
        ["Away", "2", "0", "6", "0.1", "utterance"],
    ]
    errors = further[-1]
    assert [[cell.value for cell in row] for row in errors.rows] == [
        ["Merged", "0 / 0 / 0", "0 / 3 / 0"],
        ["b", "1 / 1 / 0", "1 / 0 / 0"],
    ]


def test_only_differing_values_have_a_best(scorecard: Scorecard) -> None:
    for table in metric_tables(scorecard, MODELS):
        for column in list(zip(*table.rows, strict=True))[1:]:
            values = {entry.value for entry in column}
            assert len(values) > 1 or not any(entry.best for entry in column), table.title


def test_every_metric_with_a_value_has_a_table(scorecard: Scorecard) -> None:
    titles = {table.title: table for table in metric_tables(scorecard, MODELS)}
    assert {
        "CER",
        "MER",
        "WIL",
        "SER",
        "Term recall",
        "Term precision",
        "Term F1",
        "WER on terms",
        "WER on other words",
    } <= titles.keys()
    assert titles["Term recall"].columns == ("Model", "Medical")
    assert titles["Gap closed"].columns == ("Model", "Conversation", "Technical", "Medical", "Legal")
    assert (
        titles["Speed"].columns == ("Model", "Legal")
        and [row[1].value for row in titles["Speed"].rows].count("–") == len(MODELS) - 1
    )
    assert titles["Repeat loops"].columns == titles["Text on silence"].columns == ("Model", "Conversation")
    loops = {row[0].value: (row[1].value, row[1].best) for row in titles["Repeat loops"].rows}
    assert loops["Merged"] == ("1", False) and loops["Base"] == ("0", True)
    higher = titles["Term F1"]
    values = [row[1].value for row in higher.rows]
    assert {row[1].value for row in higher.rows if row[1].best} == {max(values, key=float)} or len(set(values)) == 1


def test_comparisons_are_those_of_the_scorecard(scorecard: Scorecard) -> None:
    tables = comparison_tables(scorecard, MODELS)
    assert [table.title for table in tables] == [f"Merged against {model.title}" for model in MODELS if model.name != "merged"]
    (uniform,) = comparison_tables(scorecard, MODELS, [("merged", "uniform"), ("merged", "unheard of")])
    item = next(item for item in scorecard.comparisons if (item.reference, item.domain) == ("uniform", "legal"))
    row = next(row for row in uniform.rows if row[0].value == "Legal")
    assert row[1].value.replace("−", "-") == f"{100 * item.difference:+.1f}"
    by_domain = [(one, row[1].best) for table in tables for one, row in zip(compared(scorecard, table), table.rows, strict=False)]
    assert all(best == (one.p_holm < 0.05) for one, best in by_domain) and len({best for _, best in by_domain}) == 2
    assert row[2].value == f"{100 * item.probability_of_improvement:.1f}" and float(row[3].value) == pytest.approx(
        item.p_value, abs=0.005
    )


def compared(scorecard: Scorecard, table: TextTable) -> list[DomainComparison]:
    """The comparisons in the rows of ``table``."""
    names = {model.title: model.name for model in MODELS}
    reference = names[table.title.removeprefix("Merged against ")]
    return [item for domain in DOMAINS for item in scorecard.comparisons if (item.reference, item.domain) == (reference, domain)]


def test_the_caption_says_how_it_was_measured(scorecard: Scorecard) -> None:
    expected = "text normaliser: whisper with 1 substitution; alignment: levenshtein; 95 % bootstrap intervals of 1000 draws"
    expected += " by speaker, seed 1"
    assert how_measured(scorecard) == expected
    score = scorecard.models["base"].domains["general"].model_copy(update={"resampled_by": "utterance"})
    base = scorecard.models["base"]
    mixed = base.model_copy(update={"domains": {**base.domains, "general": score}})
    text = how_measured(scorecard.model_copy(update={"models": {"base": mixed}}))
    assert "by speaker (Conversation, Technical, Medical, Legal) and by utterance (General)" in text
    assert expected in markdown_tables(scorecard, MODELS)


def one_line(text: str) -> str:
    return " ".join(text.split())


@given(TEXTS)
def test_nothing_breaks_a_markdown_table(text: str) -> None:
    table = TextTable("t", ("Model", "x"), ((Entry(text), Entry("1", text)),))
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown_grid(table))
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 4
    shown = ["".join(child.content for child in cell.children or ()) for cell in cells]
    assert all(child.type in ("text", "text_special") for cell in cells for child in cell.children or ())
    assert shown[2] == one_line(text) and shown[3] == (f"1 ({one_line(text)})" if text else "1")


COMMANDS = {
    "textbackslash": "\\",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textasciigrave": "`",
    "textendash": "–",
    "textquoteright": "’",
    "dots": "…",
}
MATHS = {"$-$": "−", "$\\times$": "×", "$\\rightarrow$": "→", "$\\lambda$": "λ"}
WRITTEN = re.compile(r"\\([a-z]+)\{\}|\\([{}$&%#_])|\{([*\[\]])\}|-(\{\})|(\$[^$]+\$)|(~)|([^\\{}$&%#_~^\[\]*<>|`])")


def read_latex(text: str) -> str:
    """The characters that TeX would set; fails on any that it would take for something else."""
    read, place = "", 0
    while place < len(text):
        found = WRITTEN.match(text, place)
        assert found is not None, text[place:]
        command, escaped, braced, hyphen, maths, tie, plain = found.groups()
        read += (
            COMMANDS[command]
            if command
            else escaped or braced or ("-" if hyphen else None) or MATHS.get(maths, "") or ("\u00a0" if tie else plain)
        )
        place = found.end()
    return read


@given(TEXTS | st.text("–−×→λ…’ \u00a0-", max_size=8))
def test_nothing_breaks_latex(text: str) -> None:
    written = escape_latex(text)
    assert read_latex(written) == re.sub(" +", " ", text.replace("\n", " ")).strip(" ")
    assert "--" not in written and "\n" not in written


def test_latex_environments_are_balanced_and_rows_complete(scorecard: Scorecard) -> None:
    text = latex_tables(scorecard, MODELS)
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    assert (
        len(re.findall(r"\\begin\{table\}", text))
        == len(all_tables(scorecard, MODELS))
        == len(set(re.findall(r"\\label\{.*\}", text)))
    )
    for columns, content in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in content.splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)


HOSTILE = r"[a_b] & 50% \x {~^} #$ <|> * -- `q' – − × → λ … ’ é"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(scorecard: Scorecard, tmp_path: Path) -> None:
    write_tables(tmp_path, scorecard, (*(replace(model, label=HOSTILE) for model in MODELS[:2]), *MODELS[2:]))
    paper = (
        "\\documentclass{article}\\usepackage{booktabs}\\usepackage{adjustbox}\\begin{document}\\input{tables}\\end{document}\n"
    )
    (tmp_path / "paper.tex").write_text(paper)
    found = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-2000:]


def test_figures_read_back_are_the_scorecard(scorecard: Scorecard) -> None:
    table = pd.read_csv(io.StringIO(figures_csv(scorecard)), float_precision="round_trip")
    assert not table.duplicated(["model", "domain", "figure"]).any()
    merged, of_merged = scorecard.models["merged"], table[table["model"] == "merged"]
    for domain, score in merged.domains.items():
        rows = figures_of(of_merged, of_merged["domain"] == domain)
        assert tuple(rows.loc["wer"]) == (score.wer, *score.ci)
        for name in ("utterances", "failed", "words", "substitutions", "deletions", "insertions", "repeat_loops", "seconds"):
            assert rows.loc[name, "value"] == getattr(score, name)
        for name, figure in {**score.metrics, "retention": score.retention, "gap_closed": score.gap_closed}.items():
            if figure is None:
                assert name not in rows.index
            elif figure.value is None:
                assert rows.loc[name].isna().all()
            else:
                assert figure.ci is not None and tuple(rows.loc[name]) == (figure.value, *figure.ci)
        assert ("rtfx" in rows.index) == (domain == "legal")
    assert of_merged[of_merged["figure"] == "rtfx"]["value"].tolist() == [12.5]
    worst = figures_of(of_merged, of_merged["domain"] == merged.worst_domain).loc["worst_wer"]
    assert tuple(worst) == (merged.worst_wer, *merged.worst_ci)
    overall = figures_of(of_merged, of_merged["domain"].isna())
    assert tuple(overall.loc["macro_wer"]) == (merged.macro_wer, *merged.macro_ci)
    assert overall.loc["harmonic_accuracy", "value"] == merged.harmonic_accuracy.value


def figures_of(table: pd.DataFrame, chosen: pd.Series[bool]) -> pd.DataFrame:
    """Value, low and high by figure."""
    return table[chosen].set_index("figure")[["value", "low", "high"]]


def test_comparisons_and_slices_read_back(scorecard: Scorecard) -> None:
    rows = list(csv.DictReader(io.StringIO(comparisons_csv(scorecard))))
    assert len(rows) == len(scorecard.comparisons) + len(scorecard.macro_comparisons)
    for row, item in zip(rows, scorecard.comparisons, strict=False):
        assert (row["model"], row["reference"], row["figure"], row["domain"]) == (item.model, item.reference, "wer", item.domain)
        assert (float(row["difference"]), float(row["low"]), float(row["high"])) == (item.difference, *item.ci)
        assert (float(row["p_value"]), float(row["p_holm"]), row["resampled_by"]) == (
            item.p_value,
            item.p_holm,
            item.resampled_by,
        )
        assert row["detectable"] == ("" if item.detectable is None else repr(item.detectable))
        for name, test in item.tests.items():
            assert float(row[f"{name}_p_holm"]) == test.p_holm and int(row[f"{name}_units"]) == test.units
    for row, macro in zip(rows[len(scorecard.comparisons) :], scorecard.macro_comparisons, strict=True):
        assert (row["figure"], row["reference"], float(row["difference"])) == (macro.figure, macro.reference, macro.difference)
        assert row["p_holm"] == row["domain"] == ""
    slices = list(csv.DictReader(io.StringIO(slices_csv(scorecard))))
    expected = [
        (model, domain, "speaker", voice, part.errors, part.wer)
        for model, score in scorecard.models.items()
        for domain, found in score.domains.items()
        for voice, part in found.slices["speaker"].items()
    ]
    assert [
        (r["model"], r["domain"], r["by"], r["value"], int(r["errors"]), float(r["wer"])) for r in slices
    ] == expected and expected


def test_hostile_names_are_written(tmp_path: Path) -> None:
    names = 'a "b",\nc | & \\ ü \ud800'
    paths = write_tables(tmp_path / "tables", small_scorecard(home=names, other=names))
    assert [path.name for path in paths] == ["tables.md", "tables.tex", "figures.csv", "comparisons.csv", "slices.csv"]
    table = pd.read_csv(tmp_path / "tables" / "figures.csv")
    readable = names.replace("\ud800", "?")
    assert set(table["domain"].dropna()) == {readable, "away"} and set(table["model"]) == {"a", readable}
    assert (tmp_path / "tables" / "slices.csv").read_text() == "model,domain,by,value,utterances,words,errors,wer,low,high\n"


def test_domains_of_one_title_keep_their_columns() -> None:
    tables = all_tables(small_scorecard(home="my_set", away="my set"))
    assert all(len(table.columns) == 3 for table in tables if table.title in ("CER", "Word errors"))
