"""Transcripts and the utterances that they are of: every one exactly once, or a sentence on what does not match."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from asrmerge.errors import ManifestError
from asrmerge.evaluation.hypotheses import Hypothesis, hypothesis_of
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.speech.manifest import Utterance, check_unique

_NAMED = 3  # ids that a message gives of many
_AGREEING = 0.9  # of transcripts in order: how many must bring the text of their reference


@dataclass(frozen=True)
class Output:
    """One transcript; ``place`` (file and line) opens every refusal.

    ``names`` are what its utterance may be called, the surest first; where there are none, order decides. ``utterance`` is the
    reference that the file itself gives. ``silent`` and ``error`` as in :class:`Hypothesis`.
    """

    place: str
    prediction: str
    names: tuple[str, ...]
    utterance: Utterance | None = None
    silent: bool = False
    error: str | None = None


def own_references(outputs: Sequence[Output]) -> tuple[Hypothesis, ...]:
    """The outputs with the references that their file gives.

    Raises:
        ManifestError: if one has none, or two have the same id.
    """
    hypotheses = []
    for output in outputs:
        if output.utterance is None:
            raise ManifestError(
                f"{output.place}: there is no reference text with the transcript; give the test set that it is of."
            )
        hypotheses.append(_hypothesis(output, output.utterance))
    check_unique((one.identifier, output.place) for one, output in zip(hypotheses, outputs, strict=True))
    return tuple(hypotheses)


def join(outputs: Sequence[Output], references: Sequence[Utterance], file: str) -> tuple[Hypothesis, ...]:
    """The outputs with their references, in the order of ``references``.

    Raises:
        ManifestError: if they are not of the same utterances, or one is there twice.
    """
    if not all(output.names for output in outputs):
        return _join_in_order(outputs, references, file)
    check_unique((output.names[0], output.place) for output in outputs)
    called = _by_name(references)
    found: dict[str, Output] = {}
    without: list[Output] = []
    for output in outputs:
        reference = next((called[name] for name in output.names if name in called), None)
        if reference is None:
            without.append(output)
        elif reference.identifier in found:
            before = found[reference.identifier].place
            raise ManifestError(
                f"{output.place}: utterance '{reference.identifier}' has a transcript already, in {before}; keep one."
            )
        else:
            found[reference.identifier] = output
    missing = [reference.identifier for reference in references if reference.identifier not in found]
    _check_complete(missing, [output.names[0] for output in without], len(references), len(outputs), file)
    return tuple(_hypothesis(found[reference.identifier], reference) for reference in references)


def _by_name(references: Sequence[Utterance]) -> Mapping[str, Utterance]:
    """References by id, and by the name of their audio file where that is of one alone."""
    files = Counter(reference.audio.stem for reference in references)
    by_file = {reference.audio.stem: reference for reference in references if files[reference.audio.stem] == 1}
    return by_file | {reference.identifier: reference for reference in references}


def _check_complete(missing: Sequence[str], without: Sequence[str], references: int, outputs: int, file: str) -> None:
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {references} utterances have no transcript, such as {_some(missing)}")
    if without:
        faults.append(f"{len(without)} of {outputs} transcripts are of no utterance of the test set, such as {_some(without)}")
    if faults:
        raise ManifestError(f"{file}: {', and '.join(faults)}; check that it is of this test set, whole and with its ids.")


def _join_in_order(outputs: Sequence[Output], references: Sequence[Utterance], file: str) -> tuple[Hypothesis, ...]:
    if len(outputs) != len(references):
        raise ManifestError(
            f"{file}: there are {len(outputs)} transcripts without ids for {len(references)} utterances; leave out of the test "
            "set what was left out of the transcripts (the leaderboard leaves out empty references)."
        )
    pairs = list(zip(outputs, references, strict=True))
    differing = [output for output, reference in pairs if not _agree(output.utterance, reference)]
    if len(differing) > (1 - _AGREEING) * len(outputs):
        raise ManifestError(
            f"{differing[0].place}: the reference text is another than the test set's, as in {len(differing) - 1} more of "
            f"{len(outputs)}; the transcripts have no ids, so give the test set in their order."
        )
    return tuple(_hypothesis(output, reference) for output, reference in pairs)


def _agree(own: Utterance | None, reference: Utterance) -> bool:
    """Whether most words are the same: the leaderboard's texts are normalised, in its way."""
    normalize = normalizer("whisper")
    first, second = (set(normalize(one.text).split()) if one else set() for one in (own, reference))
    return own is None or len(first & second) >= max(len(first), len(second)) / 2


def _hypothesis(output: Output, reference: Utterance) -> Hypothesis:
    return replace(hypothesis_of(reference, output.prediction), silent=output.silent, error=output.error)


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:_NAMED])
