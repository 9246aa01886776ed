"""The report as one HTML file: everything inline, nothing fetched, the same bytes for the same data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asrmerge.files import write_text
from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.report.activations import diagnosis_section
from asrmerge.report.charts import legend_mark, mark_role, wer_chart
from asrmerge.report.data import DataSet, ReportData, title_of
from asrmerge.report.digests import digests
from asrmerge.report.forest import Difference, differences, forest_chart, usual
from asrmerge.report.front_chart import front_chart
from asrmerge.report.metric_tables import figure_tables
from asrmerge.report.numbers import percent, points, probability
from asrmerge.report.packing import browser_data
from asrmerge.report.search_charts import curve_chart, history_chart, weights_chart
from asrmerge.report.significance import marks
from asrmerge.report.table import build_table
from asrmerge.report.term_errors import term_digests
from asrmerge.report.tiles import tiles
from asrmerge.report.utterances import AlignedUtterance, align_utterances, failed_utterances
from asrmerge.report.verdict import verdict

WIDE, HALF, NARROW = 1080.0, 530.0, 350.0  # pixels: the page's full measure, half of it, a phone's


def write_report(path: Path | str, data: ReportData) -> None:
    """Write the report to ``path``, atomically."""
    write_text(Path(path), render_report(data))


def render_report(data: ReportData) -> str:
    """The report's HTML."""
    utterances, failed = align_utterances(data), failed_utterances(data)
    compared = differences(data)
    own = data.scorecard.models[data.focus.name].domains
    packed = browser_data(data, utterances, failed)
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            verdict=verdict(data),
            tiles=tiles(data),
            table=build_table(data.scorecard, data.models),
            marks=marks(data),
            gaps={
                domain: score.gap_closed
                for domain, score in own.items()
                if score.gap_closed and score.gap_closed.value is not None
            },
            figures=figure_tables(data),
            charts=_charts(data, compared),
            diagnosis=diagnosis_section(_diagnoses(data), WIDE, HALF, NARROW),
            differences=[
                (one, _both(forest_chart(data, [one], WIDE, 1), forest_chart(data, [one], NARROW, 1))) for one in compared
            ],
            digests=digests(data, utterances),
            terms=term_digests(data, utterances),
            focus=data.models.index(data.focus),
            packed=_script_json(packed) if utterances or packed["slices"] else None,
            sliced=bool(packed["slices"]),
            utterance_count=len(utterances),
            failed_count=len(failed),
            tests=data.run.data or _test_sets(utterances, data),
            resampled=sorted(
                {score.resampled_by for model in data.scorecard.models.values() for score in model.domains.values()}
            ),
        )
    )
    # A lone surrogate in a transcript cannot be written as UTF-8: it is shown as "?".
    return html.encode("utf-8", "replace").decode("utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("asrmerge.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(percent=percent, points=points, probability=probability, title_of=title_of)
    environment.globals.update(legend_mark=legend_mark, mark_role=mark_role)
    return environment


def _charts(data: ReportData, found: Sequence[Difference]) -> dict[str, Markup]:
    """Every chart twice, for screens and for phones: the style sheet shows one. What there is no data for is left out."""
    domains = len(data.domains)
    charts = {"wer": _both(wer_chart(data, WIDE, domains if domains < 6 else 4), wer_chart(data, NARROW, 1))}
    if found:
        shown = usual(data, found)
        charts["forest"] = _both(forest_chart(data, shown, WIDE, 4), forest_chart(data, shown, NARROW, 1))
    search = data.search
    if search is not None and search.trials:
        charts["history"] = _both(history_chart(search, HALF), history_chart(search, NARROW))
    if search is not None and len(search.curve) > 1:
        charts["curve"] = _both(curve_chart(data, search.curve, HALF), curve_chart(data, search.curve, NARROW))
    if search is not None and search.front:
        charts["front"] = _both(front_chart(search, HALF), front_chart(search, NARROW))
    weights = _weights(data)
    if weights:
        charts["weights"] = _both(weights_chart(weights, HALF), weights_chart(weights, NARROW))
    return charts


def _both(wide: Markup, narrow: Markup) -> Markup:
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


def _weights(data: ReportData) -> list[tuple[str, float]]:
    """What the recipe says, else what the search chose."""
    if data.recipe is not None and any(item.weight is not None for item in data.recipe.inputs):
        return [(title_of(item.name), item.weight) for item in data.recipe.inputs if item.weight is not None]
    if data.search is None:
        return []
    chosen = [trial for trial in data.search.trials if trial.number == data.search.chosen]
    return [(title_of(name), weight) for trial in chosen for name, weight in trial.weights.items()]


def _diagnoses(data: ReportData) -> dict[str, Diagnosis]:
    return {model.title: data.diagnoses[model.name] for model in data.models if model.name in data.diagnoses}


def _test_sets(utterances: tuple[AlignedUtterance, ...], data: ReportData) -> tuple[DataSet, ...]:
    """What the figures stand on, where the caller says nothing of its data."""
    durations = {domain: [item.duration for item in utterances if item.domain == domain] for domain in data.domains}
    return tuple(DataSet(domain, "test", len(found), sum(found) / 60) for domain, found in durations.items() if found)


def _script_json(content: object) -> Markup:
    """JSON that cannot end its own script element."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
