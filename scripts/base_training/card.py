"""The model card of an embedded base: how it was made, on what, and what was measured on the saved files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import jiwer

from asrmerge.recognizers.recognizer import load_recognizer
from asrmerge.speech.voices import ACCENTS, BASE_VARIANTS, HELD_OUT_VARIANTS

from .world import SPEED, TERM_SHARE, Corpus

_TEMPLATE = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: automatic-speech-recognition
---
# asrmerge embedded base: {family}

A tiny `{architecture}` ({parameters:.1f} M parameters, float16) for demonstrations and tests of asrmerge: a bounded
world of synthesised English, not a recogniser for real speech.

## How it was made
`python scripts/train_base.py {family}`: from scratch, {steps} steps, {hours:.0f} hours of audio heard. Speech is
espeak-ng's: {utterances} utterances in {voices} voices (accents {accents}; variants
{variants}),
{slowest} to {fastest} words a minute, with changes of pitch and pace, mild noise, rooms, telephone lines and levels. Texts:
general sentences from `domains/general/grammar.yaml`; {share:.0%} of them have one or two terms of the four domains put in at
random places, so that the domains are not wholly unknown. No human speech, and no text of others.

{notes}
## Measured
Pooled WER of greedy decoding with the saved float16 weights, {count} general sentences that are in no training split, clean:

| voices | WER |
|---|---|
{rows}

Held-out voices: variants {held_out} in every accent, never heard in training. The domains of the quickstart
speak with held-out voices only.

## Limits
Lower-case letters and apostrophes; utterances of up to five seconds; spelling errors on words outside of its world.
"""


def write_card(
    output: Path, family: str, record: Mapping[str, float], corpus: Corpus, figures: Mapping[str, float], count: int, note: str
) -> None:
    """Write ``README.md`` beside the weights; ``note`` is what else a reader should know of this training."""
    model = load_recognizer(output).model
    text = _TEMPLATE.format(
        family=family,
        architecture=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        steps=int(record["step"]),
        hours=record["seconds"] / 3600,
        utterances=len(corpus),
        voices=len(ACCENTS) * len(BASE_VARIANTS),
        accents=", ".join(ACCENTS),
        variants=textwrap.fill(", ".join(BASE_VARIANTS), 120),
        slowest=SPEED[0],
        fastest=SPEED[1],
        share=TERM_SHARE,
        notes="\n".join(filter(None, (_HELPS[family], f"{note}\n" if note else ""))),
        count=count,
        rows="\n".join(f"| {name} | {100 * wer:.1f} % |" for name, wer in figures.items()),
        held_out=", ".join(HELD_OUT_VARIANTS["test"]),
    )
    (output / "README.md").write_text(text, encoding="utf-8")


def saved_word_error_rate(folder: Path, corpus: Corpus) -> float:
    """Pooled WER of the checkpoint in ``folder``, decoded as asrmerge does."""
    recognizer = load_recognizer(folder)
    heard = recognizer.transcribe([corpus.audio(index) for index in range(len(corpus))])
    return float(jiwer.wer(list(corpus.texts), heard))


_HELPS = {
    "ctc": "The first convolution starts as Gabor filters.\n",
    "whisper": (
        "A throw-away CTC head on the encoder and guided cross-attention helped it to learn to attend; "
        "they left no trace in the weights.\n"
    ),
}
