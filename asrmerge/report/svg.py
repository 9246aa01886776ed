"""The little SVG that the charts need: elements, scales, ticks, labels that keep out of each other's way.

Text stays text and colours are CSS classes, so that a chart follows the page's theme and the same data gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

Shape = Literal["circle", "square", "diamond", "triangle", "ring"]


def element(name: str, *children: Markup | str, **attributes: str | float | None) -> Markup:
    """An element with escaped text and attributes; ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``."""
    pairs = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value) if isinstance(value, (int, float)) else value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    inside = Markup("").join(children)
    return Markup(f"<{name}{''.join(pairs)}>{inside}</{name}>")


def _number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def drawing(width: float, height: float, label: str, children: Sequence[Markup], *, class_: str) -> Markup:
    """The outermost element; ``label`` is what a screen reader says."""
    return element(
        "svg",
        *children,
        class_=f"chart {class_}",
        viewBox=f"0 0 {_number(width)} {_number(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """Text with its baseline at ``y``."""
    return element("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through ``points``."""
    steps = " ".join(f"{'M' if index == 0 else 'L'}{_number(x)} {_number(y)}" for index, (x, y) in enumerate(points))
    return element("path", d=steps, class_=class_)


def marker(x: float, y: float, shape: Shape, size: float, class_: str, tip: str) -> Markup:
    """A mark about ``size`` wide whose ``tip`` the page's script shows at once and the browser reads as its title."""
    title = element("title", tip)
    half = size / 2
    if shape in ("circle", "ring"):
        return element("circle", title, cx=x, cy=y, r=half, class_=f"{class_} {shape}", data_tip=tip)
    if shape == "square":
        side = size * 0.9
        return element("rect", title, x=x - side / 2, y=y - side / 2, width=side, height=side, class_=class_, data_tip=tip)
    reach = half * 1.25
    corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
    if shape == "triangle":
        corners = [(x, y - reach), (x + reach, y + half), (x - reach, y + half)]
    listed = " ".join(f"{_number(px)},{_number(py)}" for px, py in corners)
    return element("polygon", title, points=listed, class_=class_, data_tip=tip)


@dataclass(frozen=True)
class Scale:
    """Maps ``low … high`` onto ``start … end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's number without needless decimals, with a true minus."""
    return f"{value:g}".replace("-", "−")


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near ``wanted``, at least ``gap`` apart and within ``low … high`` as far as there is room."""
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    placed = [0.0] * len(wanted)
    previous = low - gap
    for index in order:
        placed[index] = previous = max(wanted[index], previous + gap)
    following = high + gap
    for index in reversed(order):
        placed[index] = following = min(placed[index], following - gap)
    return placed
