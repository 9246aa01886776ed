"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence

MINUS = "−"
ARROW = "\u00a0→\u00a0"
PERCENT = "\u00a0%"  # which no line break may part from its number
SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def percent(fraction: float) -> str:
    """``18.3``: one decimal, without the sign."""
    return f"{100 * fraction:.1f}"


def rate(fraction: float) -> str:
    """``18.3 %``."""
    return percent(fraction) + PERCENT


def points(difference: float) -> str:
    """``+0.6`` or ``−1.2``: a difference of two rates in percentage points."""
    return signed(100 * difference, 1)


def signed(value: float, decimals: int) -> str:
    """With a sign, and a true minus; what rounds to zero has none."""
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def relative(new: float, old: float) -> float:
    """Change from ``old`` to ``new``, as a fraction of ``old``."""
    return (new - old) / old if old else 0.0


def whole_percent(fraction: float) -> str:
    """``12 %``; what would round to nothing keeps a decimal."""
    value = abs(100 * fraction)
    return f"{value:.{0 if value >= 1 or value == 0 else 1}f}{PERCENT}"


def probability(value: float) -> str:
    """A p-value: two digits that count, nothing below a thousandth."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def small_number(number: int) -> str:
    """In words up to twelve."""
    return SMALL[number] if 0 <= number < len(SMALL) else str(number)


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
