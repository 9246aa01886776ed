"""The bounded world that the embedded bases learn: texts, their speech, and mild augmentation."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asrmerge.speech.acoustics import Scene, level, noise, reverberation, telephone
from asrmerge.speech.domains import delivery
from asrmerge.speech.grammar import Split, read_grammar, split_of
from asrmerge.speech.synthesis import SAMPLING_RATE, SpokenText, Synthesizer
from asrmerge.speech.voices import base_voices, held_out_voices

TERM_SHARE = 0.2  # of the training utterances: one or two terms of the domains put into a general sentence
MAXIMUM_SECONDS = 4.4
LONGEST_SECONDS = 4.98  # what fits the Whisper base's window
SPEED = (145, 195)  # words per minute


@dataclass(frozen=True)
class Corpus:
    """int16 speech on disk, memory-mapped, with its texts."""

    samples: np.ndarray
    offsets: np.ndarray
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def audio(self, index: int) -> np.ndarray:
        """float32 samples of one utterance."""
        return self.samples[self.offsets[index] : self.offsets[index + 1]].astype(np.float32) / 32768

    def seconds(self) -> np.ndarray:
        return np.diff(self.offsets) / SAMPLING_RATE


def general_sentences(domains: Path, split: Split, seed: int) -> Iterator[str]:
    """Sentences of the general grammar that belong to ``split``."""
    grammar = read_grammar(domains / "general" / "grammar.yaml")
    return (sentence for sentence in grammar.sentences(seed) if split_of(sentence) == split)


def domain_terms(domains: Path) -> list[str]:
    """The terms of every domain."""
    return sorted({line for file in domains.glob("*/terms.txt") for line in file.read_text().splitlines() if line.strip()})


def training_texts(domains: Path, count: int, seed: int) -> list[str]:
    """General sentences of the training split, ``TERM_SHARE`` of them with domain terms put in at random places."""
    generator = random.Random(seed)
    terms = domain_terms(domains)
    texts = []
    for sentence in itertools.islice(general_sentences(domains, "train", seed), count):
        words = sentence.split()
        if generator.random() < TERM_SHARE:
            words = words[: generator.randint(1, 5)]
            for _ in range(generator.randint(1, 2)):
                words.insert(generator.randint(0, len(words)), generator.choice(terms))
        texts.append(" ".join(words))
    return texts


def build_corpus(folder: Path, texts: Sequence[str], voices: Sequence[str], seed: int, workers: int = 2) -> Corpus:
    """Speak ``texts`` with random voices into ``folder``, or open what lies there already."""
    if not (folder / "corpus.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        generator = random.Random(seed)
        spoken = [delivery(text, generator.choice(voices), generator, SPEED) for text in texts]
        _speak_to_disk(folder, spoken, workers)
    kept = json.loads((folder / "corpus.json").read_text())
    offsets = np.asarray(kept["offsets"])
    samples = np.memmap(folder / "samples.i16", dtype=np.int16, mode="r", shape=(int(offsets[-1]),))
    return Corpus(samples=samples, offsets=offsets, texts=tuple(kept["texts"]))


def _speak_to_disk(folder: Path, spoken: Sequence[SpokenText], workers: int) -> None:
    synthesizers = [Synthesizer() for _ in range(workers)]
    block = 200
    offsets, texts = [0], []
    with (folder / "samples.i16").open("wb") as stream, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(spoken), block * workers):
            parts = [spoken[start + w * block : start + (w + 1) * block] for w in range(workers)]
            for part, audio in zip(parts, pool.map(lambda s, p: s.speak_all(p), synthesizers, parts), strict=True):
                for item, samples in zip(part, audio, strict=True):
                    if 0.3 < len(samples) / SAMPLING_RATE < MAXIMUM_SECONDS:
                        stream.write(samples.tobytes())
                        offsets.append(offsets[-1] + len(samples))
                        texts.append(item.text)
    for synthesizer in synthesizers:
        synthesizer.close()
    (folder / "corpus.json").write_text(json.dumps({"offsets": offsets, "texts": texts}))


def training_corpus(folder: Path, domains: Path, count: int, seed: int) -> Corpus:
    return build_corpus(folder / f"train-{count}-{seed}", training_texts(domains, count, seed), base_voices(), seed)


def evaluation_corpora(folder: Path, domains: Path, count: int, seed: int) -> dict[str, Corpus]:
    """Unseen general sentences by held-out voices, and by the training voices."""
    sentences = list(itertools.islice(general_sentences(domains, "test", seed + 1), count))
    return {
        "held-out voices": build_corpus(folder / f"held-out-{count}-{seed}", sentences, held_out_voices("test"), seed),
        "training voices": build_corpus(folder / f"seen-{count}-{seed}", sentences, base_voices(), seed),
    }


def augment(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Another vocal tract and pace, mild noise, room, line and level, each in some of the utterances."""
    scene = Scene(generator)
    if generator.random() < 0.6:
        samples = _resampled(samples, generator.uniform(0.88, 1.14))
    if generator.random() < 0.3:
        samples = reverberation(samples, scene, decay=(0.1, 0.35), distance=(0.05, 0.25))
    if generator.random() < 0.7:
        colour = str(generator.choice(["white", "pink", "brown"]))
        samples = noise(samples, scene, colour=colour, snr=(18.0, 38.0))
    if generator.random() < 0.08:
        samples = telephone(samples, scene)
    return level(samples, scene, decibel=(-9.0, 3.0))


def _resampled(samples: np.ndarray, factor: float) -> np.ndarray:
    """Played ``factor`` times as fast: pitch, formants and pace change together, as between speakers."""
    length = min(int(len(samples) / factor), int(LONGEST_SECONDS * SAMPLING_RATE))
    return np.interp(np.arange(length) * factor, np.arange(len(samples)), samples).astype(np.float32)


def batches(seconds: np.ndarray, budget: float, seed: int) -> Iterator[list[int]]:
    """Endless batches of utterances of like length, at most ``budget`` seconds of padded audio each."""
    generator = np.random.default_rng(seed)
    while True:
        order = np.argsort(seconds + generator.uniform(0, 0.4, len(seconds)))
        groups: list[list[int]] = [[]]
        for index in order:
            if groups[-1] and seconds[index] * (len(groups[-1]) + 1) > budget:
                groups.append([])
            groups[-1].append(int(index))
        for position in generator.permutation(len(groups)):
            yield groups[position]
