"""The verdict on each expert: fine-tuned from the reference, a permutation of it, or trained from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import read_finite
from asrmerge.inspection.permutation import MODEL_TYPES, Part, Read, match_part
from asrmerge.inspection.result import BaseCheck, PartMatch, Verdict
from asrmerge.report.numbers import listed, rate

_IN_PLACE = 0.99  # share of units that a fine-tune keeps at least; in other trainings it is about 1 / units
_ALIGNED = 0.8  # cosine of weights from which a permutation explains them; strangers in their best order have 0.07 to 0.5


def check_base(
    reference: tuple[str, Checkpoint], expert: tuple[str, Checkpoint], parts: Sequence[Part], on_part: Callable[[], None]
) -> BaseCheck:
    """Match every part of ``expert`` with that of ``reference``; both with the name that sentences give them."""
    if not parts:
        return _unavailable(reference, expert)
    matches: list[PartMatch] = []
    for part in parts:
        # Once one part fits in no order, the verdict is clear, and assignments of thousands of units are not worth their time.
        settled = any(_fits_nowhere(match) for match in matches)
        match = match_part(part, _reader(*reference), _reader(*expert), solve=not settled)
        matches.append(
            PartMatch(
                stack=part.stack,
                layer=part.layer,
                part=part.part,
                kind=part.kind,
                count=part.count,
                in_place=match.in_place,
                cosine=match.cosine,
                matched_cosine=match.matched_cosine,
                solved=match.solved,
            )
        )
        on_part()
    units, heads = _share_in_place(matches, "units"), _share_in_place(matches, "heads")
    verdict = _verdict(matches, [share for share in (units, heads) if share is not None])
    return BaseCheck(
        expert=expert[0],
        reference=reference[0],
        verdict=verdict,
        units=units,
        heads=heads,
        parts=tuple(matches),
        sentence=f"{expert[0]}: {_sentence(verdict, _shown(reference[0]), matches, units, heads)}",
    )


def _unavailable(reference: tuple[str, Checkpoint], expert: tuple[str, Checkpoint]) -> BaseCheck:
    kind = reference[1].model_type or "unknown"
    sentence = (
        f"{expert[0]}: whether it comes from {_shown(reference[0])} is not checked, for the units of a {kind} model can't be "
        f"matched here (only those of {listed(MODEL_TYPES)})."
    )
    return BaseCheck(
        expert=expert[0], reference=reference[0], verdict="unavailable", units=None, heads=None, parts=(), sentence=sentence
    )


def _reader(name: str, checkpoint: Checkpoint) -> Read:
    return lambda tensor: read_finite(checkpoint, tensor, name)


def _share_in_place(matches: Sequence[PartMatch], kind: str) -> float | None:
    count = sum(match.count for match in matches if match.kind == kind)
    return sum(match.in_place for match in matches if match.kind == kind) / count if count else None


def _verdict(matches: Sequence[PartMatch], shares: Sequence[float]) -> Verdict:
    if min(shares) >= _IN_PLACE:
        return "same base"
    return "different base" if any(_fits_nowhere(match) for match in matches) else "permutation"


def _displaced(match: PartMatch) -> bool:
    return match.in_place < _IN_PLACE * match.count


def _fits_nowhere(match: PartMatch) -> bool:
    return _displaced(match) and match.matched_cosine < _ALIGNED


def _sentence(verdict: Verdict, reference: str, matches: Sequence[PartMatch], units: float | None, heads: float | None) -> str:
    if verdict == "same base":
        shares = ((units, "units"), (heads, "attention heads"))
        kept = [f"{rate(share)} of its {kind}" for share, kind in shares if share is not None]
        return f"same base, with {listed(kept)} in the places of {reference}."
    # The part that says most: of those that fit nowhere, if there are any, the one with most units elsewhere.
    worst = max(matches, key=lambda match: (_fits_nowhere(match), match.count - match.in_place))
    elsewhere = f"{worst.count - worst.in_place} of {worst.count} {worst.kind} of {_place(worst)} match another one"
    if verdict == "permutation":
        return f"a permutation of {reference}, since {elsewhere} there and fit it: align it before merging (asrmerge align)."
    kept_parts = sum(not _displaced(match) for match in matches)
    partly = (
        f" {kept_parts} of {len(matches)} parts do match: were the others initialised anew?"
        if kept_parts * 2 > len(matches)
        else ""
    )
    return f"not the same base, since {elsewhere} of {reference}: merge fine-tunes of one base only.{partly}"


def _shown(reference: str) -> str:
    return "the base" if reference == "base" else reference


def _place(match: PartMatch) -> str:
    part = {"ffn": "feed-forward layer", "self": "self-attention", "cross": "cross-attention"}[match.part]
    return f"the {part} of {match.stack} layer {match.layer}"
