"""The chart of a merged model beside its experts: activations and norms, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asrmerge.inspection.diagnosis import COLLAPSED, Diagnosis, LayerDiagnosis
from asrmerge.report.data import title_of
from asrmerge.report.numbers import percent, whole_percent
from asrmerge.report.search_charts import BOTTOM, HEIGHT, TOP, Label, end_labels, vertical_axis
from asrmerge.report.svg import Scale, Shape, drawing, line, marker, path, text

_LEAST_TOP, _MOST_TOP = 1.25, 2.5  # of the vertical axis; what is beyond sits at its upper end
_GAP = 0.5  # between encoder and decoder, in layers
_ROOM = 20  # pixels that a layer's number takes
_MARKS = 24  # with more layers, marks are smaller


@dataclass(frozen=True)
class _Series:
    name: str
    shape: Shape
    class_: str
    value: Callable[[LayerDiagnosis], float | None]


_SERIES = (
    _Series("variance", "circle", "series-0", lambda layer: layer.variance_ratio),
    _Series("effective rank", "square", "series-1", lambda layer: layer.rank_ratio),
    _Series("weights ‖θ‖", "triangle", "series-4 apart", lambda layer: layer.norm_ratio),
    _Series("task vector ‖τ‖", "diamond", "series-2 apart", lambda layer: layer.task_vector_ratio),
)


@dataclass(frozen=True)
class _Part:
    """One merge as the page shows it; ``chart`` stands for screens and phones, empty where there are no layers."""

    title: str
    diagnosis: Diagnosis
    tone: str
    chart: Markup


def diagnosis_section(diagnoses: Mapping[str, Diagnosis], wide: float, half: float, narrow: float) -> Markup:
    """The section of a page: a sentence and a chart for each merge, two beside each other; empty without a diagnosis.

    Args:
        diagnoses: by what people read for the merge.
        wide, half, narrow: pixels, a page's full measure, half of it, a phone's.
    """
    if not diagnoses:
        return Markup("")
    full = wide if len(diagnoses) == 1 else half
    parts = [_part(title, diagnosis, full, narrow) for title, diagnosis in diagnoses.items()]
    environment = Environment(
        loader=PackageLoader("asrmerge.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters.update(share=ratio_text, title_of=title_of)
    return Markup(environment.get_template("sections/diagnosis.html.j2").render(parts=parts, collapsed=COLLAPSED, top=_MOST_TOP))


def ratio_text(value: float | None) -> str:
    """In per cent with one decimal, without the sign; a dash where there was nothing to compare with."""
    return "–" if value is None else percent(value)


def _part(title: str, diagnosis: Diagnosis, wide: float, narrow: float) -> _Part:
    chart = Markup("")
    if diagnosis.layers:
        both = [layers_chart(title, diagnosis, width) for width in (wide, narrow)]
        chart = Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(*both)
    return _Part(title, diagnosis, diagnosis.tone, chart)


def layers_chart(title: str, diagnosis: Diagnosis, width: float) -> Markup:
    """Ratios to the experts in per cent over the layers in the order of the forward pass; what is far off sits at the top."""
    layers = diagnosis.layers
    gutter, right = 44.0, 136.0 if width > 400 else 118.0
    shown = [one for one in _SERIES if any(one.value(layer) is not None for layer in layers)]
    highest = max((value for one in shown for layer in layers if (value := one.value(layer)) is not None), default=1.0)
    y = Scale(0, 100 * min(max(1.05 * highest, _LEAST_TOP), _MOST_TOP), BOTTOM, TOP)
    places = _places(layers)
    x = Scale(0, max(places[-1], 1.0), gutter + 12, width - right - 12)
    parts = vertical_axis(y, gutter, width - right, "% of the experts’")
    parts += [line(gutter, y(100), width - right, y(100), "zero")]
    parts += [line(gutter, y(100 * COLLAPSED), width - right, y(100 * COLLAPSED), "reference")]
    parts += _layer_axis(layers, places, x)
    labels = []
    for one in reversed(shown):  # what matters most lies on top
        parts += _lines(one, layers, places, x, y)
        values = [value for layer in layers if (value := one.value(layer)) is not None]
        labels.append(Label(y(min(100 * values[-1], y.high)), one.name, f"note {one.class_}"))
    parts += end_labels(labels, width - right + 8)
    label = f"{title} beside its experts, layer by layer: variance and effective rank of activations, norms of weights. "
    return drawing(width, HEIGHT, label + diagnosis.sentence, parts, class_="activations")


def _places(layers: Sequence[LayerDiagnosis]) -> list[float]:
    """Where each layer stands: one after the other, with a gap between encoder and decoder."""
    places: list[float] = []
    for index, layer in enumerate(layers):
        new = index > 0 and _stack(layer) != _stack(layers[index - 1])
        places.append(places[-1] + 1 + (_GAP if new else 0) if places else 0.0)
    return places


def _layer_axis(layers: Sequence[LayerDiagnosis], places: Sequence[float], x: Scale) -> list[Markup]:
    """Every layer's number, or of many every so-and-so-many-th, and below them the stack's name."""
    every = max(1, -(-len(layers) * _ROOM // round(x.end - x.start)))
    parts: list[Markup] = []
    stacks = [list(found) for _, found in groupby(zip(layers, places, strict=True), key=lambda pair: _stack(pair[0]))]
    for members, following in zip(stacks, [*stacks[1:], None], strict=True):
        end = x.end + _ROOM if following is None else x(following[0][1])  # where a stack begins, its first number goes first
        for layer, place in members:
            number = layer.layer.rpartition(".")[2]
            if int(number) % every == 0 and end - x(place) >= _ROOM:
                parts.append(text(x(place), BOTTOM + 17, number, "tick", "middle"))
        middle = (x(members[0][1]) + x(members[-1][1])) / 2
        parts.append(text(middle, HEIGHT - 6, f"{_stack(members[0][0])} layer", "tick", "middle"))
    return parts


def _lines(one: _Series, layers: Sequence[LayerDiagnosis], places: Sequence[float], x: Scale, y: Scale) -> list[Markup]:
    """A line for each stack, and a mark for each layer."""
    parts: list[Markup] = []
    known = [
        (layer, x(place), 100 * value)
        for layer, place in zip(layers, places, strict=True)
        if (value := one.value(layer)) is not None
    ]
    for _, found in groupby(known, key=lambda point: _stack(point[0])):
        members = list(found)
        parts.append(path([(at, y(min(value, y.high))) for _, at, value in members], f"series {one.class_}"))
        for layer, at, value in members:
            tip = f"{layer.layer}, {one.name}: {whole_percent(value / 100)} of the experts’"
            size = 7 if len(layers) <= _MARKS else 4.5
            parts.append(marker(at, y(min(value, y.high)), one.shape, size, f"mark {one.class_}", tip))
    return parts


def _stack(layer: LayerDiagnosis) -> str:
    return layer.layer.partition(".")[0]
