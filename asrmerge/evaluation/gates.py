"""Gates: conditions that a model must meet before it is deployed, read from a line of text and judged on a scorecard.

::

    medical.wer <= 0.12
    general.wer <= 1.02 * base
    legal.term_recall >= 0.95
    macro.wer < uniform, p < 0.05
    worst_domain.wer < uniform.worst_domain.wer, p < 0.05

On the left stands a set (or ``macro``, the mean over the target domains, or ``worst_domain``, the worst of them) and a figure of
the model that is judged. On the right stands a number, or another model, which means its figure of the same name, or that model's
figure in full; either may be multiplied by a number. ``p < 0.05`` asks in addition that the difference of the word error rates is
beyond chance by the paired bootstrap (two-sided). Error rates are fractions.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from asrmerge.errors import ConfigError
from asrmerge.evaluation.metric_registry import find_metrics
from asrmerge.evaluation.records import DomainScore, Scorecard
from asrmerge.validation import suggest

MACRO, WORST = "macro", "worst_domain"
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_NAME, _NUMBER = r"[A-Za-z0-9][\w-]*", r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+"
_GATE = re.compile(
    rf"(?P<place>{_NAME})\.(?P<figure>{_NAME})\s*(?P<operator><=|>=|<|>)\s*"
    rf"(?:(?P<before>{_NUMBER})\s*\*\s*)?"
    rf"(?:(?P<bound>{_NUMBER})(?![\w.])|(?P<model>{_NAME})(?:\.(?P<other_place>{_NAME})\.(?P<other_figure>{_NAME}))?)"
    rf"(?:\s*\*\s*(?P<after>{_NUMBER}))?"
    rf"(?:\s*,\s*p\s*<\s*(?P<level>{_NUMBER}))?"
)
_COUNTS = ("failed", "repeat_loops", "text_on_silence")
_ROUNDING = 1e-12  # so that a product's rounding fails no gate


@dataclass(frozen=True)
class Figure:
    """Where a figure stands in a scorecard: a set (or ``macro``, ``worst_domain``) and its name there."""

    place: str
    name: str


@dataclass(frozen=True)
class Gate:
    """``figure`` of the judged model compared with ``factor``, or with ``factor`` times ``other`` of ``model``."""

    text: str
    figure: Figure
    operator: str
    factor: float
    model: str | None = None
    other: Figure | None = None
    level: float | None = None

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read a gate from its text.

        Raises:
            ConfigError: it cannot be read.
        """
        match = _GATE.fullmatch(text.strip())
        if match is None:
            raise ConfigError(
                f"the gate '{text}' cannot be read: write it as 'medical.wer <= 0.12', 'general.wer <= 1.02 * base' or "
                "'worst_domain.wer < uniform.worst_domain.wer, p < 0.05' (fractions, not per cent)."
            )
        factor = math.prod(float(match[name]) for name in ("before", "bound", "after") if match[name])
        level = None if match["level"] is None else float(match["level"])
        figure = Figure(match["place"], match["figure"])
        if match["model"] is None:
            if level is not None:
                raise ConfigError(f"the gate '{text}' compares with a number, for which there is no p: name a model there.")
            return cls(text.strip(), figure, match["operator"], factor)
        other = Figure(match["other_place"], match["other_figure"]) if match["other_place"] else figure
        if level is not None and (figure != other or figure.name != "wer" or factor != 1):
            raise ConfigError(f"the gate '{text}' asks for p, which is known of one set's wer in two models: compare just those.")
        return cls(text.strip(), figure, match["operator"], factor, match["model"], other, level)


@dataclass(frozen=True)
class GateResult:
    """What came of a gate: the model's ``value``, the ``limit`` that it was held against, ``p`` where it was asked for."""

    gate: Gate
    model: str
    value: float
    limit: float
    p: float | None
    passed: bool

    @property
    def sentence(self) -> str:
        """What was asked and what was seen."""
        beyond = "" if self.p is None else f", p = {self.p:.3g}"
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}: {self.gate.text} ({self.model}: {self.value:.4g}, limit {self.limit:.4g}{beyond})"


def known_figures() -> tuple[str, ...]:
    """Every figure that a gate may ask for: the metrics, and what a scorecard has beside them."""
    return (*find_metrics(), "rtfx", "retention", "gap_closed", *_COUNTS)


def parse_gates(texts: Iterable[str], *, sets: Sequence[str], models: Sequence[str], figures: Sequence[str]) -> tuple[Gate, ...]:
    """Read gates, and check every name in them before any work is done.

    Raises:
        ConfigError: a gate cannot be read, or names a set, model or figure that will not be there.
    """
    gates = tuple(Gate.parse(text) for text in texts)
    known = {"set": (*sets, MACRO, WORST), "model": tuple(models), "figure": tuple(figures)}
    for gate in gates:
        named = [(part, figure) for figure in (gate.figure, gate.other) if figure for part in _parts(figure)]
        pairs = [*(pair for pair, _ in named), *([("model", gate.model)] if gate.model else [])]
        for kind, name in pairs:
            if name not in known[kind]:
                raise ConfigError(f"the gate '{gate.text}' names the unknown {kind} '{name}'; {suggest(name, known[kind])}.")
    return gates


def judge(gates: Iterable[Gate], scorecard: Scorecard, model: str) -> tuple[GateResult, ...]:
    """Hold ``model`` against every gate.

    Raises:
        ConfigError: a figure is not in the scorecard, or stands on nothing, such as the recall of terms that never occur.
    """
    return tuple(_judge(gate, scorecard, model) for gate in gates)


def _judge(gate: Gate, scorecard: Scorecard, model: str) -> GateResult:
    value = _value(gate.figure, scorecard, model, gate)
    limit = gate.factor
    if gate.model is not None and gate.other is not None:
        limit *= _value(gate.other, scorecard, gate.model, gate)
    rounding = _ROUNDING if gate.operator == "<=" else -_ROUNDING if gate.operator == ">=" else 0.0
    passed = _OPERATORS[gate.operator](value, limit + rounding)
    p = None if gate.level is None else _p_value(gate, scorecard, model)
    return GateResult(gate, model, value, limit, p, passed and (p is None or (gate.level is not None and p < gate.level)))


def _value(figure: Figure, scorecard: Scorecard, model: str, gate: Gate) -> float:
    if model not in scorecard.models:
        raise ConfigError(f"the gate '{gate.text}' names the model '{model}', which was not evaluated: evaluate it too.")
    score = scorecard.models[model]
    places = scorecard.targets if figure.place in (MACRO, WORST) else (figure.place,)
    values = []
    for place in places:
        value = _of_domain(score.domains[place], figure.name) if place in score.domains else None
        if value is None:
            raise ConfigError(f"the gate '{gate.text}' asks for {place}.{figure.name}, of which '{model}' has no figure.")
        values.append(value)
    if figure.place == WORST:
        return max(values) if figure.name not in scorecard.higher_is_better else min(values)
    return math.fsum(values) / len(values)


def _of_domain(score: DomainScore, name: str) -> float | None:
    if name in (*_COUNTS, "wer", "rtfx"):
        value: float | None = getattr(score, name)
        return value
    figure = {"retention": score.retention, "gap_closed": score.gap_closed}.get(name) or score.metrics.get(name)
    return None if figure is None else figure.value


def _p_value(gate: Gate, scorecard: Scorecard, model: str) -> float:
    if gate.figure.place in (MACRO, WORST):
        found = [
            one.p_value
            for one in scorecard.macro_comparisons
            if (one.figure, one.model, one.reference) == (gate.figure.place, model, gate.model)
        ]
    else:
        found = [
            one.p_value
            for one in scorecard.comparisons
            if (one.domain, one.model, one.reference) == (gate.figure.place, model, gate.model)
        ]
    if not found:
        raise ConfigError(f"the gate '{gate.text}' asks for p, but '{model}' was not compared with '{gate.model}': compare them.")
    return found[0]


def _parts(figure: Figure) -> list[tuple[str, str]]:
    return [("set", figure.place), ("figure", figure.name)]
