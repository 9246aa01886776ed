"""The inspection as one HTML file with heat maps: everything inline, nothing fetched, in the report's theme."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asrmerge import __version__
from asrmerge.inspection.findings import find, headline
from asrmerge.inspection.result import Geometry, Inspection, Matrix
from asrmerge.inspection.tables import ABSENT, cosine_text, greatest, mean_cosine, ratio_text, shade
from asrmerge.report.activations import diagnosis_section
from asrmerge.report.html import HALF, NARROW, WIDE
from asrmerge.report.numbers import percent
from asrmerge.report.svg import drawing, element, text

_LABEL = 10  # letters of an expert's name beside a small map


def render_heatmap(inspection: Inspection) -> str:
    """The page's HTML; the same inspection gives the same bytes."""
    several = len(inspection.names) > 1
    html = (
        _environment()
        .get_template("inspection.html.j2")
        .render(
            inspection=inspection,
            version=__version__,
            headline=headline(inspection),
            findings=find(inspection),
            of="base" if inspection.reference == "base" else "mean",
            rows=_rows(inspection),
            most=greatest(inspection.groups),
            several=several,
            cosines=_cosine_maps(inspection) if several else [],
            conflicts=_conflict_maps(inspection) if several else [],
            diagnosis=_diagnosis(inspection),
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def _diagnosis(inspection: Inspection) -> Markup:
    return diagnosis_section({} if inspection.diagnosis is None else {"Merged": inspection.diagnosis}, WIDE, HALF, NARROW)


def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("asrmerge.inspection"), PackageLoader("asrmerge.report")]
        ),  # the style is the report's
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(percent=percent, cosine=cosine_text, ratio=ratio_text)
    environment.globals.update(shade=shade, mean_cosine=mean_cosine)
    return environment


def _cosine_maps(inspection: Inspection) -> list[tuple[str, Markup]]:
    """Expert × expert, one map per group, that of the whole model last."""
    return [(row.group, _map(inspection.names, row.cosines, f"Cosines in {row.group}", signed=True)) for row in _rows(inspection)]


def _conflict_maps(inspection: Inspection) -> list[tuple[str, Markup]]:
    if inspection.overall is None:
        return []
    found: list[tuple[str, Matrix]] = [
        ("share of entries, %", inspection.overall.conflicts),
        ("share of magnitude, %", inspection.overall.conflict_magnitudes),
    ]
    return [(title, _map(inspection.names, matrix, f"Sign conflicts: {title}", signed=False)) for title, matrix in found]


def _rows(inspection: Inspection) -> list[Geometry]:
    return [] if inspection.overall is None else [*inspection.groups, inspection.overall]


def _map(names: tuple[str, ...], matrix: tuple[tuple[float | None, ...], ...], label: str, *, signed: bool) -> Markup:
    """A square of cells; columns are in the order of the rows, whose names stand at the left."""
    side, gutter, gap = 39.0, 88.0, 2.0
    parts: list[Markup] = []
    for row, name in enumerate(names):
        y = row * side
        short = name if len(name) <= _LABEL else name[: _LABEL - 1] + "…"
        parts.append(text(gutter - 8, y + side / 2 + 4, short, "tick", "end"))
        for column, other in enumerate(names):
            value = matrix[row][column]
            content = _cell_text(value, signed)
            place = {"x": gutter + column * side, "y": y, "width": side - gap, "height": side - gap}
            if row == column:
                parts.append(element("rect", class_="cell itself", rx=4, **place))
                continue
            hue = "cool" if signed and value is not None and value > 0 else "warm"
            heat = min(abs(value), 1.0) if value is not None else 0.0
            title = element("title", f"{name} · {other}: {content}")
            parts.append(element("rect", title, class_=f"cell {hue}", style=f"--heat:{heat:.3f}", rx=4, **place))
            parts.append(text(gutter + column * side + (side - gap) / 2, y + side / 2 + 3, content, "cell-text", "middle"))
    return drawing(gutter + side * len(names), side * len(names), label, parts, class_="squares")


def _cell_text(value: float | None, signed: bool) -> str:
    if value is None:
        return ABSENT
    return cosine_text(value) if signed else percent(value)
