"""Domains that speak: sentences from a grammar, voices, acoustic conditions, synthesised once and cached.

A domain is a folder: ``domain.yaml`` (name, description, style, seed, speed, acoustics), ``grammar.yaml`` and
``terms.txt`` (one key term a line).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field

from asrmerge.content import content_folder, locate_domain
from asrmerge.errors import ConfigError
from asrmerge.files import atomic_folder, hash_content, hash_file
from asrmerge.speech.acoustics import SAMPLING_RATE, Scene, apply_effects
from asrmerge.speech.audio import write_audio
from asrmerge.speech.grammar import SPLITS, Grammar, Split, read_grammar, split_of
from asrmerge.speech.manifest import Utterance, write_manifest
from asrmerge.speech.synthesis import SpokenText, Synthesizer
from asrmerge.speech.voices import base_voices, held_out_voices
from asrmerge.validation import Section, validate

_CACHE_FORMAT = 2  # raise it when the same domain files should give other audio
_BABBLE_TALKERS = 40


class DomainFile(Section):
    """What ``domain.yaml`` holds."""

    name: str
    description: str
    style: str
    seed: int
    words_per_minute: tuple[int, int] = Field(default=(150, 180))
    acoustics: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Domain:
    """A domain's folder, read."""

    folder: Path
    settings: DomainFile
    grammar: Grammar
    terms: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.settings.name


def load_domain(name: str | Path) -> Domain:
    """A shipped domain by name or a user's own by folder.

    Raises:
        ConfigError: the folder, one of its files, or a key in it is missing or wrong.
    """
    folder = locate_domain(name)
    file = folder / "domain.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML ({error}); correct the file") from error
    settings = validate(DomainFile, content, str(file))
    _check_acoustics(settings, file)
    terms = folder / "terms.txt"
    lines = terms.read_text(encoding="utf-8").splitlines() if terms.is_file() else []
    return Domain(
        folder=folder,
        settings=settings,
        grammar=read_grammar(folder / "grammar.yaml"),
        terms=tuple(line.strip() for line in lines if line.strip()),
    )


def _check_acoustics(settings: DomainFile, file: Path) -> None:
    """Try the effects on a second of noise: a wrong parameter should not show only after minutes of synthesis."""
    generator = np.random.default_rng(settings.seed)
    noise = generator.normal(0, 0.1, SAMPLING_RATE).astype(np.float32)
    try:
        apply_effects(noise, settings.acoustics, Scene(generator, [noise]))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def synthesize_domain(
    domain: Domain,
    counts: Mapping[Split, int],
    cache: Path,
    *,
    maximum_seconds: float,
    on_utterance: Callable[[], None] = lambda: None,
) -> dict[Split, Path]:
    """Manifests of each split, spoken into ``cache`` on first use.

    The same domain files, counts and espeak-ng give the same samples. Sentences that take longer than
    ``maximum_seconds`` are left out and replaced by others.

    Raises:
        ConfigError: the grammar holds too few sentences.
        SynthesisError: espeak-ng is not installed or fails.
    """
    folder = cache / f"{domain.name}-{_key(domain, counts, maximum_seconds)[:16]}"
    if not folder.is_dir():
        with atomic_folder(folder) as temporary, Synthesizer() as synthesizer:
            utterances: dict[Split, list[Utterance]] = {split: [] for split in SPLITS}
            for utterance, split, samples in _speak(domain, counts, synthesizer, maximum_seconds):
                target = temporary / utterance.audio
                target.parent.mkdir(exist_ok=True)
                write_audio(target, samples, SAMPLING_RATE)
                utterances[split].append(replace(utterance, audio=target))
                on_utterance()
            for split in SPLITS:
                if counts.get(split):
                    write_manifest(temporary / f"{split}.jsonl", utterances[split])
    return {split: folder / f"{split}.jsonl" for split in SPLITS if counts.get(split)}


def _speak(
    domain: Domain, counts: Mapping[Split, int], synthesizer: Synthesizer, maximum_seconds: float
) -> Iterator[tuple[Utterance, Split, np.ndarray]]:
    talkers = _babble(synthesizer) if any(entry.get("effect") == "babble" for entry in domain.settings.acoustics) else ()
    missing = {split: counts.get(split, 0) for split in SPLITS}
    for sentence in domain.grammar.sentences(domain.settings.seed):
        split = split_of(sentence)
        if not any(missing.values()):
            return
        if not missing[split]:
            continue
        # Seeded by what is said, so that an utterance does not change when other counts are asked for.
        seed = int(hash_content([domain.settings.seed, sentence])[:12], 16)
        generator = random.Random(seed)
        spoken = delivery(sentence, generator.choice(held_out_voices(split)), generator, domain.settings.words_per_minute)
        clean = synthesizer.speak(spoken).astype(np.float32) / 32768
        if not 0.2 < len(clean) / SAMPLING_RATE <= maximum_seconds:
            continue
        samples = apply_effects(clean, domain.settings.acoustics, Scene(np.random.default_rng(seed), talkers))
        index = counts[split] - missing[split]
        missing[split] -= 1
        identifier = f"{domain.name}-{split}-{index:05d}"
        yield (
            Utterance(
                identifier=identifier,
                audio=Path(split) / f"{identifier}.flac",
                duration=round(len(samples) / SAMPLING_RATE, 3),
                text=sentence,
                speaker=spoken.voice,
                domain=domain.name,
            ),
            split,
            samples,
        )
    short = ", ".join(f"{count} {split}" for split, count in missing.items() if count)
    if short:
        raise ConfigError(
            f"{domain.folder}/grammar.yaml: too few distinct sentences ({short} missing); ask for fewer, or add templates"
        )


def delivery(text: str, voice: str, generator: random.Random, speed: tuple[int, int]) -> SpokenText:
    """``text`` with a random speed in words per minute, pitch, pitch range and word gap."""
    return SpokenText(
        text,
        voice,
        words_per_minute=generator.randint(*speed),
        pitch=generator.randint(35, 65),
        pitch_range=generator.randint(30, 70),
        word_gap=generator.randint(0, 3),
    )


def _babble(synthesizer: Synthesizer) -> list[np.ndarray]:
    grammar = read_grammar(content_folder("domains") / "general" / "grammar.yaml")
    generator = random.Random(0)
    voices = base_voices()
    texts = [grammar.sample(generator) for _ in range(_BABBLE_TALKERS)]
    return [synthesizer.speak(SpokenText(text, generator.choice(voices))).astype(np.float32) / 32768 for text in texts]


def _key(domain: Domain, counts: Mapping[Split, int], maximum_seconds: float) -> str:
    try:
        library = version("espeakng-loader")
    except PackageNotFoundError:
        library = "none"
    files = [domain.folder / "domain.yaml", domain.folder / "grammar.yaml"]
    voices = {split: held_out_voices(split) for split in SPLITS}
    general = hash_file(content_folder("domains") / "general" / "grammar.yaml")
    return hash_content(
        [_CACHE_FORMAT, library, [hash_file(file) for file in files], dict(counts), maximum_seconds, voices, general]
    )
