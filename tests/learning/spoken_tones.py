"""Tones that stand for words, and tiny experts that have learnt to write them: what merges can be learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asrmerge.experts.finetune import TrainingAudio, finetune
from asrmerge.experts.settings import FinetuneSettings
from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance

PITCHES = {"a": 300, "be": 700, "cab": 1500, "dad": 2500, "egg": 3800}


def tones(folder: Path, domain: str, count: int, seed: int, *, words: str = "a be cab dad egg") -> list[Utterance]:
    """Two words of half a second together, each a tone of its own pitch."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        said = list(random.choice(words.split(), 2))
        time = np.arange(4000) / 16_000
        sound = np.concatenate([0.3 * np.sin(2 * np.pi * PITCHES[word] * time) for word in said])
        path = folder / domain / f"{index}.wav"
        write_audio(path, sound + random.normal(0, 0.01, len(sound)))
        made.append(Utterance(f"{domain}-{index}", path, len(sound) / 16_000, " ".join(said), domain=domain))
    return made


def fine_tune(base: Path, output: Path, utterances: list[Utterance], *, frozen: bool = False, steps: int = 40) -> Path:
    """An expert of these utterances."""
    settings = FinetuneSettings(
        steps=steps,
        batch_seconds=4,
        learning_rate=1e-2,
        replay=0,
        evaluate_every=steps,
        freeze="encoder" if frozen else "nothing",
    )
    finetune(str(base), TrainingAudio(utterances, [], utterances[:2]), output, settings, seed=1)
    return output
