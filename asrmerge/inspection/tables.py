"""The inspection in a terminal: findings, a row per structural group with shaded cells, and the experts in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from asrmerge.inspection.diagnosis import Diagnosis
from asrmerge.inspection.findings import find, headline
from asrmerge.inspection.result import Geometry, Inspection
from asrmerge.report.numbers import percent, signed

_MARKS = {"good": ("✓", "green"), "bad": ("✗", "bold red"), "neutral": ("•", "dim")}
_WARM = (226, 122, 40)
ABSENT = "–"


def inspection_table(inspection: Inspection) -> RenderableType:
    """Everything for one ``console.print``; colours appear where the console has them."""
    parts: list[RenderableType] = [Text(headline(inspection), style="bold")]
    for finding in find(inspection):
        mark, style = _MARKS[finding.tone]
        parts.append(Text.assemble((mark, style), " ", finding.text))
    if inspection.overall is not None:
        several = len(inspection.names) > 1
        of = "base" if inspection.reference == "base" else "mean"
        conflicts = "; % of entries and of magnitude where experts move in opposite directions" if several else ""
        parts += [Text(f"\nDistance to the {of} in % of its norm{conflicts}\n", style="bold")]
        parts += [_group_table(inspection, inspection.overall, of)]
        if several:
            parts += [Text("\nExperts in pairs, whole model\n", style="bold"), _pair_table(inspection, inspection.overall)]
    if inspection.diagnosis is not None:
        parts += [Text("\nThe merged model in % of its experts, by layer\n", style="bold"), _layer_table(inspection.diagnosis)]
    return Group(*parts)


def table_width(inspection: Inspection) -> int:
    """Columns that the table needs at least: a narrower console would cut off figures."""
    return 72 + sum(2 + max(7, min(len(name), 16)) for name in inspection.names)


def shade(value: float | None, most: float) -> float:
    """How dark a cell is, 0 to 1: the square root, or one great value would leave the others all pale."""
    return (max(value or 0.0, 0.0) / most) ** 0.5 if most > 0 else 0.0


def greatest(rows: Sequence[Geometry]) -> float:
    """The greatest of all ratios: what the darkest cell stands for."""
    return max((ratio for row in rows for ratio in row.ratios if ratio is not None), default=0.0)


def mean_cosine(row: Geometry) -> float | None:
    """Mean over all pairs of experts that both moved."""
    found = [value for one, two in combinations(range(len(row.norms)), 2) if (value := row.cosines[one][two]) is not None]
    return sum(found) / len(found) if found else None


def cosine_text(value: float | None) -> str:
    """``+0.13``, ``−0.02``; a dash where a task vector is zero."""
    return ABSENT if value is None else signed(value, 2)


def ratio_text(value: float | None) -> str:
    """In percent, with three digits; a dash where the reference is zero."""
    if value is None:
        return ABSENT
    return f"{100 * value:#.3g}".removesuffix(".") if value else "0"


def _group_table(inspection: Inspection, overall: Geometry, of: str) -> Table:
    several = len(inspection.names) > 1
    table = _table()
    table.add_column("group", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column(f"‖{of}‖", justify="right", no_wrap=True)
    for name in inspection.names:
        table.add_column(escape(name), justify="right", min_width=7, overflow="fold")
    if several:
        for heading in ("mean cosine", "entries", "magnitude"):
            table.add_column(heading, justify="right", min_width=7, overflow="fold")
    most = greatest(inspection.groups)
    for row in (*inspection.groups, overall):
        if row is overall:
            table.add_section()
        cells = [Text(row.group), Text(f"{row.parameters:,}"), Text(f"{row.reference_norm:.4g}")]
        cells += [_ratio(ratio, shade(ratio, most) if row is not overall else 0.0) for ratio in row.ratios]
        if several:
            shares = (percent(row.contested), percent(row.contested_magnitude))
            cells += [Text(cosine_text(mean_cosine(row))), *map(Text, shares)]
        table.add_row(*cells, style="bold" if row is overall else "")
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def _ratio(ratio: float | None, heat: float) -> Text:
    if heat == 0:
        return Text(ratio_text(ratio))
    # From white to the warm colour with black digits: readable in light and dark terminals alike.
    red, green, blue = (round(255 + (channel - 255) * heat) for channel in _WARM)
    return Text(f" {ratio_text(ratio)} ", style=f"black on rgb({red},{green},{blue})")


def _layer_table(diagnosis: Diagnosis) -> Table:
    table = _table()
    table.add_column("layer", no_wrap=True)
    for heading in ("variance", "effective rank", "quiet units", "‖θ‖", *(["‖τ‖"] if diagnosis.base is not None else [])):
        table.add_column(heading, justify="right", overflow="fold")
    for layer in diagnosis.layers:
        ranks = f"{layer.effective_rank:.1f}/{layer.expert_effective_rank:.1f}"
        cells = [ratio_text(layer.variance_ratio), f"{ranks} = {ratio_text(layer.rank_ratio)}", percent(layer.quiet_units)]
        norms = [layer.norm_ratio, *([layer.task_vector_ratio] if diagnosis.base is not None else [])]
        table.add_row(layer.layer, *cells, *map(ratio_text, norms), style="bold red" if layer.collapsed or layer.exploded else "")
    overall = diagnosis.overall
    norms = [overall.norm_ratio, *([overall.task_vector_ratio] if diagnosis.base is not None else [])]
    table.add_section()
    table.add_row("all", "", "", "", *map(ratio_text, norms), style="bold")
    return table


def _pair_table(inspection: Inspection, overall: Geometry) -> Table:
    table = _table()
    table.add_column("pair")
    for heading in ("cosine", "entries", "magnitude"):
        table.add_column(heading, justify="right")
    for (one, first), (two, second) in combinations(enumerate(inspection.names), 2):
        table.add_row(
            escape(f"{first} · {second}"),
            cosine_text(overall.cosines[one][two]),
            percent(overall.conflicts[one][two]),
            percent(overall.conflict_magnitudes[one][two]),
        )
    return table
