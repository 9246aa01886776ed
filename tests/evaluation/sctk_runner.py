"""Run NIST's sclite and sc_stats, where they are installed, and read what they print; and make texts to run them on."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from asrmerge.content import locate_domain
from asrmerge.speech.grammar import read_grammar

DOMAINS = ("conversation", "general", "legal", "medical", "technical")
TESTS = {"MP": "mapsswe", "SI": "sign", "WI": "wilcoxon", "MN": "mcnemar"}


def human_speech() -> tuple[list[str], list[str], list[str]]:
    """References, and what a real Whisper and its int8 export recognised, normalised."""
    text = (Path(__file__).parent / "data" / "human_speech.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    references, first, second = (list(column) for column in zip(*rows, strict=True))
    return references, first, second


needs_sctk = pytest.mark.skipif(shutil.which("sctk") is None, reason="NIST's SCTK is not installed (apt install sctk)")


def sclite(folder: Path, references: Sequence[str], hypotheses: Sequence[str], speakers: Sequence[str] | None = None) -> str:
    """sclite's alignments as SGML, case-sensitive; the hypotheses' system is called ``folder``'s name."""
    folder.mkdir(parents=True, exist_ok=True)
    speakers = speakers or ["s"] * len(references)
    for name, texts in (("ref.trn", references), ("hyp.trn", hypotheses)):
        lines = (f"{text} ({speaker}-{number})\n" for number, (text, speaker) in enumerate(zip(texts, speakers, strict=True)))
        (folder / name).write_text("".join(lines), encoding="utf-8")
    options = [
        "-r",
        "ref.trn",
        "trn",
        "-h",
        "hyp.trn",
        "trn",
        folder.name,
        "-i",
        "spu_id",
        "-s",
        "-o",
        "sgml",
        "stdout",
        "-f",
        "0",
    ]
    return subprocess.run(["sctk", "sclite", *options], cwd=folder, capture_output=True, text=True, check=True).stdout


def sclite_moves(sgml: str) -> list[str]:
    """Per utterance sclite's moves, such as ``CCSDI``."""
    paths = re.findall(r'<PATH id="\(\w+-(\d+)\)"[^>]*>\n(.*?)\n?</PATH>', sgml, re.DOTALL)
    moves = {int(number): "".join(step[0] for step in steps.split(":") if step) for number, steps in paths}
    return [moves[number] for number in range(len(moves))]


def sc_stats(folder: Path, first: str, second: str) -> tuple[tuple[str, ...], dict[str, float]]:
    """From two systems' SGML: MAPSSWE's segments, mean, standard deviation, Z and verdict as printed; each test's p-value."""

    def run(*options: str) -> None:
        command = ["sctk", "sc_stats", "-p", *options, "-n", "out"]
        subprocess.run(command, cwd=folder, input=(first + second).encode(), capture_output=True, check=True)

    run("-t", "mapsswe", "-v")
    printed = (folder / "out.stats.mapsswe").read_text(encoding="utf-8", errors="replace")
    pattern = r"# segs: (\d+)\).*mean: +(\S+)\) \(std dev: +(\S+)\) \(Z Stat: +(\S+)\) \(Stat Diff: (\w+)"
    run("-t", "std4", "-u")
    unified = (folder / "out.stats.unified").read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"\|\s+(MP|SI|WI|MN)\s+\|\|.*?\s<?(\d\.\d{3})\s", unified)
    match = re.search(pattern, printed)
    assert match is not None, printed
    return match.groups(), {TESTS[name]: float(value) for name, value in found}


def random_texts(generator: random.Random, count: int, longest: int) -> list[str]:
    """Texts of few or many different words, some empty."""
    texts = []
    for _ in range(count):
        words = [f"w{number}" for number in range(generator.choice([1, 2, 4, 30]))]
        texts.append(" ".join(generator.choices(words, k=generator.randint(0, generator.choice([1, 5, longest])))))
    return texts


def domain_texts(count: int) -> list[str]:
    """Sentences of the shipped domains."""
    each = -(-count // len(DOMAINS))
    grammars = [read_grammar(locate_domain(domain) / "grammar.yaml") for domain in DOMAINS]
    drawn = [sentence for grammar in grammars for sentence, _ in zip(grammar.sentences(0), range(each), strict=False)]
    return drawn[:count]


def misrecognise(texts: Sequence[str], rate: float, seed: int) -> list[str]:
    """``texts`` with a recogniser's mistakes: words dropped, misheard, split, joined, and the last ones repeated."""
    generator = random.Random(seed)
    vocabulary = sorted({word for text in texts for word in text.split()})
    results = []
    for text in texts:
        words: list[str] = []
        for word in text.split():
            fate = generator.random() / rate
            if fate < 0.2:
                continue
            if fate < 0.6:
                words.append(generator.choice(vocabulary))
            elif fate < 0.75:
                words += [word[: len(word) // 2] or "a", word[len(word) // 2 :]]
            elif fate < 0.9 and words:
                words[-1] += word
            else:
                words.append(word)
        if generator.random() < rate / 4:
            words += words[-3:] * generator.randint(1, 4)
        results.append(" ".join(words))
    return results
