"""The verdict in a sentence, and the key figures; both say so when the merge loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from asrmerge.evaluation.records import DomainComparison
from asrmerge.report.data import ReportData, ReportModel, title_of
from asrmerge.report.numbers import ARROW, MINUS, PERCENT, listed, percent, points, rate, relative, small_number, whole_percent

Outcome = Literal["win", "mixed", "draw", "loss", "plain"]
Tone = Literal["good", "bad", "neutral"]

LEVEL = 0.0005  # a difference of less than 0.05 points is none: it would not show in the table either


@dataclass(frozen=True)
class Verdict:
    """``headline`` is a few words, ``sentence`` the figures behind it, ``further`` what else bears on it."""

    outcome: Outcome
    headline: str
    sentence: str
    further: tuple[str, ...]


@dataclass(frozen=True)
class Tile:
    """A key figure: what it is, its value, whether that is good, and what it is made of."""

    label: str
    value: str
    tone: Tone
    note: str


@dataclass(frozen=True)
class Rival:
    """What the merged model has to beat."""

    model: ReportModel
    phrase: str
    macro: float


def rivals(data: ReportData) -> tuple[Rival, ...]:
    """Uniform average, best single expert and base, as far as they were evaluated."""
    found = []
    if uniform := data.first("uniform"):
        found.append(Rival(uniform, "the uniform average", data.macro(uniform)))
    if expert := best_expert(data):
        found.append(Rival(expert, "the best single expert", data.macro(expert)))
    if base := data.first("base"):
        found.append(Rival(base, "the base", data.macro(base)))
    return tuple(found)


def best_expert(data: ReportData) -> ReportModel | None:
    """The expert with the lowest average over all target domains."""
    experts = [model for model in data.models if model.role == "expert"]
    return min(experts, key=data.macro) if experts else None


def experts_at_home(data: ReportData) -> float | None:
    """The mean of each target domain's own expert there: what four models instead of one would reach."""
    own = {model.domain: model for model in data.models if model.role == "expert"}
    if not set(data.scorecard.targets) <= own.keys():
        return None
    rates = [data.wer(own[domain], domain) for domain in data.scorecard.targets]
    return sum(rates) / len(rates)


def verdict(data: ReportData) -> Verdict:
    """Judge the merged model by its macro-average word error rate on the test sets."""
    merged, others = data.first("merged"), rivals(data)
    if merged is None or not others:
        focus = data.focus
        return Verdict("plain", f"{focus.title} has the lowest average", _average(data, focus) + ".", _further(data, focus))
    macro = data.macro(merged)
    better = [rival for rival in others if rival.macro - macro > LEVEL]
    worse = [rival for rival in others if macro - rival.macro > LEVEL]
    level = [rival for rival in others if abs(rival.macro - macro) <= LEVEL]
    outcome = _outcome(better, worse, level)
    against = listed([_against(rival) for rival in others])
    sentence = f"{_average(data, merged)}, against {against}{_price(data, merged)}."
    return Verdict(outcome, _headline(outcome, macro, better, worse, level), sentence, _further(data, merged))


def _outcome(better: list[Rival], worse: list[Rival], level: list[Rival]) -> Outcome:
    if better:
        return "mixed" if worse or level else "win"
    return "loss" if worse else "draw"


def _headline(outcome: Outcome, macro: float, better: list[Rival], worse: list[Rival], level: list[Rival]) -> str:
    if outcome == "win":
        best = min(better, key=lambda rival: rival.macro)
        return f"Merging wins: {whole_percent(relative(macro, best.macro))} fewer word errors than {best.phrase}"
    if outcome == "loss":
        best = min(worse, key=lambda rival: rival.macro)
        return f"Merging loses: {whole_percent(relative(macro, best.macro))} more word errors than {best.phrase}"
    if outcome == "draw":
        return f"Merging gains nothing: level with {_phrases(level)}"
    but = [f"worse than {_phrases(worse)}"] if worse else []
    but += [f"level with {_phrases(level)}"] if level else []
    return f"Merging wins in part: better than {_phrases(better)}, but {listed(but)}"


def _phrases(found: list[Rival]) -> str:
    return listed([rival.phrase for rival in found])


def _average(data: ReportData, model: ReportModel) -> str:
    targets = data.scorecard.targets
    name = "The merged model" if model.role == "merged" else model.title
    over = f"on {title_of(targets[0])}" if len(targets) == 1 else f"on average over the {small_number(len(targets))} domains"
    return f"{name} makes {rate(data.macro(model))} word errors {over}"


def _against(rival: Rival) -> str:
    which = f" ({title_of(rival.model.domain or rival.model.name)})" if rival.model.role == "expert" else ""
    return f"{rate(rival.macro)} for {rival.phrase}{which}"


def _price(data: ReportData, merged: ReportModel) -> str:
    base = data.first("base")
    if base is None or data.general is None:
        return ""
    new, old = data.wer(merged, data.general), data.wer(base, data.general)
    if abs(new - old) <= LEVEL:
        return f"; on general speech it costs nothing ({rate(old)}, as the base)"
    chance = ", which could be chance" if _could_be_chance(data, merged, base, data.general) else ""
    amount = f"{100 * abs(new - old):.1f} points ({rate(old)}{ARROW}{rate(new)})"
    return f"; on general speech it {'gives up' if new > old else 'even gains'} {amount}{chance}"


def _further(data: ReportData, focus: ReportModel) -> tuple[str, ...]:
    lines = []
    named = ((data.first("uniform"), "the uniform average"), (data.first("base"), "the base"))
    parts = [part for reference, phrase in named if reference and (part := _beyond_chance(data, focus, reference, phrase))]
    if parts:
        lines.append(f"Beyond chance (paired bootstrap, {100 * data.scorecard.level:g}{PERCENT}) it is {listed(parts)}.")
    joint = data.first("joint")
    if joint is not None and joint != focus:
        lines.append(
            "One model fine-tuned on all domains’ audio together, which needs all of that audio in one place, "
            f"reaches {rate(data.macro(joint))}."
        )
    return tuple(lines)


def _beyond_chance(data: ReportData, focus: ReportModel, reference: ReportModel, phrase: str) -> str | None:
    """In how many target domains the difference's interval is clear of zero."""
    found = [item for domain in data.scorecard.targets if (item := _comparison(data, focus, reference, domain))]
    if not found:
        return None
    better, worse = sum(item.ci[1] < 0 for item in found), sum(item.ci[0] > 0 for item in found)
    counted = [(word, count) for word, count in (("better", better), ("worse", worse)) if count]
    if not counted:
        return f"neither better nor worse than {phrase} in any domain"
    total = small_number(len(found))
    if len(counted) == 1:
        word, count = counted[0]
        share = f"all {total}" if count == len(found) else f"{small_number(count)} of {total}"
        return f"{word} than {phrase} in {share} domains"
    return f"better than {phrase} in {small_number(better)} and worse in {small_number(worse)} of {total} domains"


def _comparison(data: ReportData, model: ReportModel, reference: ReportModel, domain: str) -> DomainComparison | None:
    wanted = (model.name, reference.name, domain)
    return next((item for item in data.scorecard.comparisons if (item.model, item.reference, item.domain) == wanted), None)


def _could_be_chance(data: ReportData, model: ReportModel, reference: ReportModel, domain: str) -> bool:
    found = _comparison(data, model, reference, domain)
    return found is not None and found.ci[0] <= 0 <= found.ci[1]


def tiles(data: ReportData) -> tuple[Tile, ...]:
    """The key figures, in the order of the sentence."""
    focus = data.focus
    macro = data.macro(focus)
    note = f"word error rate, macro average over {len(data.scorecard.targets)} domains"
    found = [Tile(focus.title, rate(macro), "neutral", note)]
    found += [_rival_tile(rival, macro) for rival in rivals(data) if rival.model != focus]
    found += [tile for tile in (_gap_tile(data, focus), _general_tile(data, focus)) if tile]
    return tuple(found)


def _rival_tile(rival: Rival, macro: float) -> Tile:
    change = relative(macro, rival.macro)
    sign = MINUS if change < 0 else "+" if change > 0 else ""
    who = f"{rival.model.title}: " if rival.model.role == "expert" else ""
    note = f"{who}{percent(rival.macro)}{ARROW}{rate(macro)}"
    label = {"uniform": "vs uniform", "base": "vs base"}.get(rival.model.role, "vs best expert")
    return Tile(label, f"{sign}{whole_percent(change)}", _tone(macro - rival.macro), note)


def _gap_tile(data: ReportData, focus: ReportModel) -> Tile | None:
    base, home = data.first("base"), experts_at_home(data)
    if base is None or home is None or data.macro(base) - home <= LEVEL:
        return None
    share = (data.macro(base) - data.macro(focus)) / (data.macro(base) - home)
    note = f"from the base ({rate(data.macro(base))}) to every expert at home ({rate(home)})"
    sign = MINUS if round(100 * share) < 0 else ""
    return Tile("Gap closed", f"{sign}{abs(100 * share):.0f}{PERCENT}", "good" if share > 0 else "bad", note)


def _general_tile(data: ReportData, focus: ReportModel) -> Tile | None:
    base = data.first("base")
    if base is None or data.general is None or base == focus:
        return None
    new, old = data.wer(focus, data.general), data.wer(base, data.general)
    chance = _could_be_chance(data, focus, base, data.general)
    note = f"points vs base: {percent(old)}{ARROW}{rate(new)}" + (", could be chance" if chance else "")
    return Tile("General speech", points(new - old), "neutral" if chance else _tone(new - old), note)


def _tone(difference: float) -> Tone:
    if abs(difference) <= LEVEL:
        return "neutral"
    return "good" if difference < 0 else "bad"
