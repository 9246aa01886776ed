"""The key figures, in the order of the verdict's sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asrmerge.report.data import ReportData, ReportModel
from asrmerge.report.numbers import ARROW, MINUS, PERCENT, percent, points, rate, relative, whole_percent
from asrmerge.report.verdict import LEVEL, Rival, Standing, could_be_chance, experts_at_home, rival_of, rivals

Tone = Literal["good", "bad", "neutral"]

RIVALS = 3


@dataclass(frozen=True)
class Tile:
    """A key figure: what it is, its value, whether that is good, and what it is made of."""

    label: str
    value: str
    tone: Tone
    note: str


def tiles(data: ReportData) -> tuple[Tile, ...]:
    """The key figures, in the order of the sentence."""
    focus = data.focus
    macro = data.macro(focus)
    targets = data.scorecard.targets
    over = "" if len(targets) == 1 else f", macro average over {len(targets)} domains"
    note = f"word error rate{over}"
    found = [Tile(focus.title, rate(macro), "neutral", note)]
    found += [_rival_tile(rival, macro) for rival in rivals(data)[:RIVALS]]
    found += [tile for tile in (_gap_tile(data, focus), _general_tile(data, focus)) if tile]
    return tuple(found)


def _rival_tile(rival: Rival, macro: float) -> Tile:
    change = relative(macro, rival.macro)
    sign = MINUS if change < 0 else "+" if change > 0 else ""
    label = {"the uniform average": "vs uniform", "the base": "vs base", "the best single expert": "vs best expert"}
    who = f"{rival.model.title}: " if rival.phrase == "the best single expert" else ""
    standing = rival.stands(macro)
    chance = ", could be chance" if standing == "level" and abs(macro - rival.macro) > LEVEL else ""
    note = f"{who}{percent(rival.macro)}{ARROW}{rate(macro)}{chance}"
    return Tile(label.get(rival.phrase, f"vs {rival.model.title}"), f"{sign}{whole_percent(change)}", _tone_of(standing), note)


def _tone_of(standing: Standing) -> Tone:
    return "good" if standing == "better" else "bad" if standing == "worse" else "neutral"


def _gap_tile(data: ReportData, focus: ReportModel) -> Tile | None:
    base, home = data.first("base"), experts_at_home(data)
    if base is None or base == focus or home is None or data.macro(base) - home <= LEVEL:
        return None
    share = (data.macro(base) - data.macro(focus)) / (data.macro(base) - home)
    note = f"from the base ({rate(data.macro(base))}) to every expert at home ({rate(home)})"
    sign = MINUS if round(100 * share) < 0 else ""
    tone = _tone_of(rival_of(data, base, "the base").stands(data.macro(focus)))
    return Tile("Gap closed", f"{sign}{abs(100 * share):.0f}{PERCENT}", tone, note)


def _general_tile(data: ReportData, focus: ReportModel) -> Tile | None:
    base = data.first("base")
    if base is None or data.general is None or base == focus:
        return None
    new, old = data.wer(focus, data.general), data.wer(base, data.general)
    chance = could_be_chance(data, base, data.general)
    note = f"points vs base: {percent(old)}{ARROW}{rate(new)}" + (", could be chance" if chance else "")
    return Tile("General speech", points(new - old), "neutral" if chance else _tone(new - old), note)


def _tone(difference: float) -> Tone:
    if abs(difference) <= LEVEL:
        return "neutral"
    return "good" if difference < 0 else "bad"
