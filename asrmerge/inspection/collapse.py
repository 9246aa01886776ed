"""Where a merged model's activations collapse, in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asrmerge.inspection.diagnosis import LayerDiagnosis
from asrmerge.report.numbers import listed, small_number, whole_percent

_Named = tuple[str, float | None]


def collapse_sentence(layers: Sequence[LayerDiagnosis]) -> str:
    """Which layers collapse or explode, the first and the worst with figures; or that none does, with the range.

    Where a layer holds, but many units of a map inside of it do not, another sentence says so.

    Args:
        layers: all, in the order of the forward pass.
    """
    if not layers:
        return "The model has no layers of an encoder or a decoder whose activations could be compared."
    fallen = [layer for layer in layers if layer.collapsed]
    risen = [layer for layer in layers if layer.exploded]
    quiet = [layer for layer in layers if layer.muted and not layer.collapsed]
    parts = []
    if fallen:
        parts.append(_where("Activations collapse", layers, fallen, _both, lambda layer: layer.least))
    if risen:
        verb = "They explode" if fallen else "Activations explode"
        parts.append(_where(verb, layers, risen, _variance, lambda layer: -(layer.variance_ratio or 0.0)))
    if not parts:
        parts.append(_healthy(layers))
    if quiet:
        worst = max(quiet, key=lambda layer: layer.quietest_units)
        more = (
            f"; {small_number(len(quiet) - 1)} more such layers"
            if len(quiet) > 2
            else "; one more such layer"
            if quiet[1:]
            else ""
        )
        share = whole_percent(worst.quietest_units)
        parts.append(
            f"Inside of {worst.layer}, {share} of the units of {worst.quietest_map} vary less than half as much as in the "
            f"experts{more}."
        )
    return " ".join(parts)


def _where(
    verb: str,
    layers: Sequence[LayerDiagnosis],
    found: Sequence[LayerDiagnosis],
    figures: Callable[[LayerDiagnosis], list[_Named]],
    badness: Callable[[LayerDiagnosis], float],
) -> str:
    first, worst = found[0], min(found, key=badness)
    if len(found) == 1:
        return f"{verb} in {first.layer}: {_phrase(figures(first))}."
    there = f"in {first.layer}, the first, "
    if len(found) == len(layers):
        place = f"in all {len(layers)} layers"
    elif list(found) == list(layers[-len(found) :]):
        place, there = f"from {first.layer} on", "there "
    else:
        place = f"in {len(found)} of {len(layers)} layers"
    if worst is first:
        return f"{verb} {place}, most in the first, {first.layer}: {_phrase(figures(first))}."
    return f"{verb} {place}: {there}{_phrase(figures(first))}; in {worst.layer}, the worst, {_phrase(figures(worst))}."


def _both(layer: LayerDiagnosis) -> list[_Named]:
    return [("their variance", layer.variance_ratio), ("their effective rank", layer.rank_ratio)]


def _variance(layer: LayerDiagnosis) -> list[_Named]:
    return [("their variance", layer.variance_ratio)]


def _phrase(figures: Sequence[_Named]) -> str:
    """``their variance is 41 % of the experts' and their effective rank 60 %``."""
    known = [(name, whole_percent(value)) for name, value in figures if value is not None]
    (first, share), *rest = known
    return listed([f"{first} is {share} of the experts'", *(f"{name} {text}" for name, text in rest)])


def _healthy(layers: Sequence[LayerDiagnosis]) -> str:
    variances = [layer.variance_ratio for layer in layers if layer.variance_ratio is not None]
    ranks = [layer.rank_ratio for layer in layers if layer.rank_ratio is not None]
    if not variances or not ranks:
        return "No layer collapses, for the experts' activations do not vary."
    return f"No layer collapses: variances are {_range(variances)} of the experts', effective ranks {_range(ranks)}."


def _range(values: Sequence[float]) -> str:
    low, high = whole_percent(min(values)), whole_percent(max(values))
    return low if low == high else f"{low} to {high}"
