"""The inspection in sentences: what a reader should know before merging these models, and of a merge of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Literal

from asrmerge.inspection.result import Inspection, Verdict
from asrmerge.report.numbers import listed

Tone = Literal["good", "bad", "neutral"]

_TONES: dict[Verdict, Tone] = {"same base": "good", "permutation": "bad", "different base": "bad", "unavailable": "neutral"}
_SAME = 1e-12  # distance from cosine 1 below which two task vectors are one
_SHOWN = 6  # patterns of tensor names, or tokens, in one sentence


@dataclass(frozen=True)
class Finding:
    """``bad`` is what speaks against a merge, ``good`` what speaks for it."""

    tone: Tone
    text: str


def find(inspection: Inspection) -> tuple[Finding, ...]:
    """All findings, the most important first."""
    if not inspection.compatible:
        return tuple(Finding("bad", text) for text in dict.fromkeys(inspection.incompatible.values()))
    return (
        Finding("good", _architecture(inspection)),
        *_vocabularies(inspection),
        *(Finding(_TONES[check.verdict], check.sentence) for check in inspection.base_checks),
        *_same_models(inspection),
        *_tensors(inspection),
        *_storage(inspection),
        *_merged(inspection),
    )


def headline(inspection: Inspection) -> str:
    """The answer in a few words."""
    if not inspection.compatible:
        return "These models can't be merged"
    bad = [check.expert for check in inspection.base_checks if check.verdict in ("different base", "permutation")]
    if bad:
        return f"Not of one base: {listed(bad)}"
    if any(check.verdict == "unavailable" for check in inspection.base_checks):
        return "One architecture; whether one base, can't be told"
    return "One architecture, one base"


def patterns(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """``names`` in short: ``model.encoder.* (77)`` where all of ``every`` that start so are among them."""
    return list(_patterns(sorted(names), sorted(every), ""))


def _patterns(names: Sequence[str], every: Sequence[str], prefix: str) -> Iterator[str]:
    if len(names) == len(every) and len(names) > 1:
        yield f"{prefix}* ({len(names)})" if prefix else f"all {len(names)}"
        return
    found = set(names)
    for head, group in groupby(every, key=lambda name: name[len(prefix) :].partition(".")[0]):
        inside = list(group)
        below = [name for name in inside if name in found]
        if len(inside) == 1:
            yield from below
        elif below:
            yield from _patterns(below, inside, f"{prefix}{head}.")


def _architecture(inspection: Inspection) -> str:
    overall = inspection.overall
    millions = f"{overall.parameters / 1e6:.1f} million" if overall else "no"
    kind = inspection.model_type or "unnamed"
    same = "One architecture" if inspection.lacking_tokens else "One architecture and vocabulary"
    return f"{same}: {kind}, {len(inspection.tensors)} tensors to merge, {millions} parameters."


def _vocabularies(inspection: Inspection) -> Iterator[Finding]:
    if not inspection.lacking_tokens:
        return
    gaps = [f"{name} lacks {_tokens(tokens)}" for name, tokens in inspection.lacking_tokens.items() if tokens]
    borrowed = f" ({'; '.join(gaps)}: such rows are borrowed, the base's if it has them)" if gaps else ""
    yield Finding("neutral", f"The vocabularies differ, so the head's rows are matched by token, as in a merge{borrowed}.")


def _tokens(tokens: Sequence[str]) -> str:
    more = [f"{len(tokens) - _SHOWN} more"] if len(tokens) > _SHOWN else []
    return listed([*map(repr, tokens[:_SHOWN]), *more])


def _same_models(inspection: Inspection) -> Iterator[Finding]:
    overall = inspection.overall
    if overall is None:
        return
    for name, norm in zip(inspection.names, overall.norms, strict=True):
        if inspection.reference == "base" and norm == 0:
            yield Finding("bad", f"{name} equals the base: nothing was fine-tuned, or the base was given twice.")
    for (one, first), (two, second) in combinations(enumerate(inspection.names), 2):
        cosine, norms = overall.cosines[one][two], (overall.norms[one], overall.norms[two])
        if cosine is not None and cosine > 1 - _SAME and max(norms) - min(norms) <= _SAME * max(norms):
            yield Finding("bad", f"{first} and {second} are the same model: leave one of them out.")
    if inspection.reference == "mean":
        alike = f"{-1 / (len(inspection.names) - 1):.2f}".replace("-", "−")
        yield Finding(
            "neutral",
            "No base was given, so distances are to the mean of the experts; these deviations add up to zero, "
            f"so their signs must conflict, and cosines of experts that differ alike are {alike}, not 0. "
            "Give the base to see task vectors.",
        )


def _tensors(inspection: Inspection) -> Iterator[Finding]:
    if inspection.identical:
        yield Finding("neutral", f"Identical in all models: {_short(inspection, inspection.identical)}.")
    for name, frozen in inspection.frozen.items():
        if len(frozen) > len(inspection.identical):
            yield Finding("neutral", f"{name} left these as in the base: {_short(inspection, frozen)}.")
    for name, alone in inspection.changed_by_one.items():
        if alone and len(inspection.names) > 1:
            yield Finding("neutral", f"Only {name} changed: {_short(inspection, alone)}.")


def _short(inspection: Inspection, names: Sequence[str]) -> str:
    shown = patterns(names, inspection.tensors)
    more = [f"{len(shown) - _SHOWN} more such parts"] if len(shown) > _SHOWN + 1 else []
    count = f"{len(names)} of {len(inspection.tensors)} tensors"
    return count if shown == [f"all {len(names)}"] else f"{count} ({listed([*shown[:_SHOWN], *more] if more else shown)})"


def _merged(inspection: Inspection) -> Iterator[Finding]:
    if inspection.diagnosis is not None:
        sentence = inspection.diagnosis.sentence
        yield Finding(inspection.diagnosis.tone, f"merged: {sentence[0].lower()}{sentence[1:]}")


def _storage(inspection: Inspection) -> Iterator[Finding]:
    if len(set(inspection.dtypes.values())) > 1:
        stored = listed([f"{name} in {' and '.join(dtypes)}" for name, dtypes in inspection.dtypes.items()])
        yield Finding("neutral", f"Stored in different precision ({stored}): small differences may be rounding.")
    if inspection.differing_constants:
        names = listed(inspection.differing_constants)
        yield Finding("bad", f"A merge copies {names} from one model, but the models differ there.")
