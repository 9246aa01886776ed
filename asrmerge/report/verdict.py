"""The verdict in a sentence: of a merged model against what it has to beat, of another against those it was compared with.

It says so when the merge loses, and calls nothing better or worse whose interval holds zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from asrmerge.evaluation.records import Range
from asrmerge.report.data import ReportData, ReportModel, title_of
from asrmerge.report.numbers import ARROW, PERCENT, listed, percent, rate, relative, small_number, whole_percent
from asrmerge.report.significance import domain_comparison, summary_comparison

Outcome = Literal["win", "mixed", "draw", "loss", "plain"]
Standing = Literal["better", "worse", "level"]

NAMED = 4  # models in a sentence; of more, how many there are
LEVEL = 0.0005  # a difference of less than 0.05 points is none: it would not show in the table either


@dataclass(frozen=True)
class Verdict:
    """``headline`` is a few words, ``sentence`` the figures behind it, ``further`` what else bears on it."""

    outcome: Outcome
    headline: str
    sentence: str
    further: tuple[str, ...]


@dataclass(frozen=True)
class Rival:
    """What the main model is held against; ``ci`` of the difference of the averages, where the two were compared."""

    model: ReportModel
    phrase: str
    macro: float
    ci: Range | None

    def stands(self, macro: float) -> Standing:
        """How a model with that average does against it: level where the difference could be chance, or would not show."""
        if abs(macro - self.macro) <= LEVEL or (self.ci is not None and self.ci[0] <= 0 <= self.ci[1]):
            return "level"
        return "better" if macro < self.macro else "worse"


def rivals(data: ReportData) -> tuple[Rival, ...]:
    """Uniform average, best single expert and base, as far as they were evaluated; else the models it was compared with."""
    named = (
        (data.first("uniform"), "the uniform average"),
        (best_expert(data), "the best single expert"),
        (data.first("base"), "the base"),
    )
    found = [rival_of(data, model, phrase) for model, phrase in named if model is not None and model != data.focus]
    if data.focus.role == "merged" and found:
        return tuple(found)
    return tuple(
        rival_of(data, model, model.phrase) for model in data.models if model != data.focus and summary_comparison(data, model)
    )


def rival_of(data: ReportData, model: ReportModel, phrase: str) -> Rival:
    """``model`` as something to be held against."""
    comparison = summary_comparison(data, model)
    return Rival(model, phrase, data.macro(model), comparison.ci if comparison else None)


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
    """Judge the main model by its macro-average word error rate on the test sets."""
    focus, others = data.focus, rivals(data)
    if focus.role != "merged" or not others:
        return _plain_verdict(data, focus, others)
    macro = data.macro(focus)
    standing = _by_standing(others, macro)
    outcome = _outcome(standing)
    against = listed([_against(rival) for rival in others])
    sentence = f"{_average(data, focus)}, against {against}{_price(data, focus)}."
    return Verdict(outcome, _headline(outcome, macro, standing), sentence, _further(data, focus, others))


def _plain_verdict(data: ReportData, focus: ReportModel, others: tuple[Rival, ...]) -> Verdict:
    """Of a model that is no merge: what the intervals say, and without a comparison nothing but its rate."""
    macro = data.macro(focus)
    low, high = data.scorecard.models[focus.name].macro_ci
    interval = f"{_average(data, focus)} ({100 * data.scorecard.level:g}{PERCENT} interval {percent(low)} to {rate(high)})"
    if not others:
        alone = (
            "" if len(data.models) == 1 else ". It was not compared with the other models, so nothing is said of what is chance"
        )
        return Verdict("plain", f"{focus.title}: {rate(macro)} word errors", f"{interval}{alone}.", ())
    standing = _by_standing(others, macro)
    outcome = _outcome(standing)
    named = sorted(others, key=lambda rival: (rival.model.role != "base", rival.macro))[:NAMED]
    more = [f"{small_number(len(others) - NAMED)} more"] if len(others) > NAMED else []
    against = listed([*(_against(rival) for rival in others if rival in named), *more])
    sentence = f"{interval}, against {against}{_price(data, focus)}."
    return Verdict(outcome, _plain_headline(focus, outcome, macro, standing), sentence, _further(data, focus, others))


def _by_standing(others: Sequence[Rival], macro: float) -> dict[Standing, list[Rival]]:
    return {name: [rival for rival in others if rival.stands(macro) == name] for name in ("better", "worse", "level")}


def _plain_headline(focus: ReportModel, outcome: Outcome, macro: float, standing: Mapping[Standing, list[Rival]]) -> str:
    """``standing`` as far as the intervals carry it."""
    if outcome == "draw":
        return f"{focus.title} is {_level(standing['level'])}: no difference on average is beyond it"
    (found, word) = (standing["better"], "fewer") if standing["better"] else (standing["worse"], "more")
    if outcome in ("win", "loss"):
        share = f"{whole_percent(relative(macro, found[0].macro))} " if len(found) == 1 else ""
        return f"{focus.title} makes {share}{word} word errors than {_names(found)}"
    parts = [f"{name} than {_names(standing[name])}" for name in ("better", "worse") if standing[name]]
    parts += [_level(standing["level"])] if standing["level"] else []
    return f"{focus.title} is {listed(parts)}"


def _level(found: Sequence[Rival]) -> str:
    """That no difference was found is no proof that there is none."""
    return f"{'level with' if all(rival.ci is None for rival in found) else 'within chance of'} {_names(found)}"


def _names(found: Sequence[Rival]) -> str:
    return listed([rival.phrase for rival in found]) if len(found) < NAMED else f"{small_number(len(found))} models"


def _outcome(standing: Mapping[Standing, list[Rival]]) -> Outcome:
    if standing["better"]:
        return "mixed" if standing["worse"] or standing["level"] else "win"
    if standing["worse"]:
        return "loss"
    return "draw"


def _headline(outcome: Outcome, macro: float, standing: Mapping[Standing, list[Rival]]) -> str:
    better, worse, level = standing["better"], standing["worse"], standing["level"]
    if outcome == "win":
        best = min(better, key=lambda rival: rival.macro)
        return f"Merging wins: {whole_percent(relative(macro, best.macro))} fewer word errors than {best.phrase}"
    if outcome == "loss":
        best = min(worse, key=lambda rival: rival.macro)
        return f"Merging loses: {whole_percent(relative(macro, best.macro))} more word errors than {best.phrase}"
    if outcome == "draw":
        return f"Merging gains nothing: {_level(level)}"
    but = [f"worse than {_names(worse)}"] if worse else []
    but += [_level(level)] if level else []
    return f"Merging wins in part: better than {_names(better)}, but {listed(but)}"


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
    if base is None or data.general is None or base == merged:
        return ""
    new, old = data.wer(merged, data.general), data.wer(base, data.general)
    if abs(new - old) <= LEVEL:
        return f"; on general speech it costs nothing ({rate(old)}, as the base)"
    chance = ", which could be chance" if could_be_chance(data, base, data.general) else ""
    amount = f"{100 * abs(new - old):.1f} points ({rate(old)}{ARROW}{rate(new)})"
    return f"; on general speech it {'gives up' if new > old else 'even gains'} {amount}{chance}"


def _further(data: ReportData, focus: ReportModel, others: Sequence[Rival]) -> tuple[str, ...]:
    lines = []
    # The best expert is another model in every domain: how often it is beaten says little.
    named = [rival for rival in others if focus.role != "merged" or rival.model.role != "expert"][:NAMED]
    parts = [part for rival in named if (part := _beyond_chance(data, rival))]
    if parts:
        lines.append(f"Beyond chance (paired bootstrap, {100 * data.scorecard.level:g}{PERCENT}) it is {listed(parts)}.")
    joint = data.first("joint")
    if joint is not None and joint != focus and focus.role == "merged":
        lines.append(
            "One model fine-tuned on all domains’ audio together, which needs all of that audio in one place, "
            f"reaches {rate(data.macro(joint))}."
        )
    return tuple(lines)


def _beyond_chance(data: ReportData, rival: Rival) -> str | None:
    """In how many target domains the difference's interval is clear of zero."""
    phrase = rival.phrase
    found = [item for domain in data.scorecard.targets if (item := domain_comparison(data, rival.model, domain))]
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


def could_be_chance(data: ReportData, reference: ReportModel, domain: str) -> bool:
    """Whether the interval of the main model's difference there holds zero."""
    found = domain_comparison(data, reference, domain)
    return found is not None and found.ci[0] <= 0 <= found.ci[1]
