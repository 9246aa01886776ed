"""Domains: read with every fault named, spoken once and cached, the same bytes again, nothing left by a kill."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from asrmerge.content import content_folder
from asrmerge.errors import ConfigError
from asrmerge.speech import domains
from asrmerge.speech.audio import read_audio
from asrmerge.speech.domains import load_domain, synthesize_domain
from asrmerge.speech.grammar import SPLITS, Split, split_of
from asrmerge.speech.manifest import read_manifest
from asrmerge.speech.voices import held_out_voices

needs_espeak = pytest.mark.skipif(find_spec("espeakng_loader") is None, reason="espeakng-loader is not installed")

COUNTS: dict[Split, int] = {"train": 3, "validation": 2, "test": 2}
GRAMMAR = {
    "sentences": ["call the {who} {when}", "the {who} is late {when}", "see the {who} {when}", "{when} the {who} left us"],
    "slots": {"who": ["baker", "miller", "smith", "tailor", "mason"], "when": ["today", "now", "at noon", "again"]},
}
SETTINGS: dict[str, Any] = {
    "name": "village",
    "description": "Craftsmen.",
    "style": "short",
    "seed": 7,
    "acoustics": [{"effect": "noise", "colour": "white", "snr": [20, 25]}],
}


def make_domain(folder: Path, *, grammar: dict[str, Any] = GRAMMAR, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
    (folder / "domain.yaml").write_text(yaml.safe_dump(settings))
    (folder / "grammar.yaml").write_text(yaml.safe_dump(grammar))
    (folder / "terms.txt").write_text("baker\n\n  miller \n")
    return folder


def speak(folder: Path, cache: Path, counts: dict[Split, int] = COUNTS, **options: Any) -> dict[Split, Path]:
    return synthesize_domain(load_domain(folder), counts, cache, **{"maximum_seconds": 4.8, **options})


def contents(cache: Path) -> dict[str, bytes]:
    return {str(file.relative_to(cache)): file.read_bytes() for file in sorted(cache.rglob("*")) if file.is_file()}


def test_a_users_own_folder_is_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_domain(tmp_path / "mine" / "village")
    for place, name in ((tmp_path, str(folder)), (tmp_path / "mine", "village"), (tmp_path, "mine/village")):
        monkeypatch.chdir(place)
        domain = load_domain(name)
        assert (domain.name, domain.terms, len(domain.grammar.templates)) == ("village", ("baker", "miller"), 4)
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    assert load_domain("~/village").name == "village"


def test_terms_may_be_left_out(tmp_path: Path) -> None:
    folder = make_domain(tmp_path)
    (folder / "terms.txt").unlink()
    assert load_domain(folder).terms == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": None}, "the key 'style' is missing"),
        ({"acoustic": []}, "unknown key 'acoustic'; did you mean 'acoustics'"),
        ({"seed": "many"}, "'seed' is 'many'"),
        ({"acoustics": [{"effect": "echo"}]}, "acoustics: no effect 'echo'; choose one of"),
        ({"acoustics": [{"effect": "noise", "colour": "white"}]}, "acoustics: effect 'noise' .*'snr'; correct"),
        ({"acoustics": [{"effect": "level", "decibel": 3}]}, "acoustics: effect 'level'"),
    ],
)
def test_a_wrong_domain_file_is_refused_before_anything_is_spoken(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make_domain(tmp_path / "village", **changes)
    with pytest.raises(ConfigError, match=f"^{folder / 'domain.yaml'}: {message}"):
        load_domain(folder)


def test_a_missing_domain_or_grammar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"domain 'nowhere': .*shipped domains \(conversation, general, legal"):
        load_domain("nowhere")
    folder = make_domain(tmp_path)
    (folder / "grammar.yaml").unlink()
    with pytest.raises(ConfigError, match=r"grammar\.yaml: no such grammar"):
        load_domain(folder)
    (folder / "domain.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match=r"domain\.yaml: not valid YAML"):
        load_domain(folder)


@needs_espeak
def test_what_is_spoken_is_what_the_manifests_say(tmp_path: Path) -> None:
    manifests = speak(make_domain(tmp_path / "village"), tmp_path / "cache")
    seen: set[str] = set()
    for split in SPLITS:
        utterances = read_manifest(manifests[split])
        assert len(utterances) == COUNTS[split]
        for utterance in utterances:
            samples = read_audio(utterance.audio)
            assert utterance.duration == pytest.approx(len(samples) / 16_000, abs=1e-3) and np.abs(samples).max() > 0.01
            assert split_of(utterance.text) == split and utterance.speaker in held_out_voices(split)
            assert utterance.domain == "village" and utterance.text not in seen
            seen.add(utterance.text)


@needs_espeak
def test_the_same_domain_is_the_same_bytes_in_any_place(tmp_path: Path) -> None:
    spoken: list[str] = []
    for name in ("one", "two"):
        speak(make_domain(tmp_path / name / "village"), tmp_path / f"cache-{name}", on_utterance=lambda: spoken.append(""))
    assert contents(tmp_path / "cache-one") == contents(tmp_path / "cache-two") != {}
    assert len(spoken) == 2 * sum(COUNTS.values())


@needs_espeak
def test_the_second_time_nothing_is_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_domain(tmp_path / "village")
    first = speak(folder, tmp_path / "cache")
    before = contents(tmp_path / "cache")
    monkeypatch.setattr(domains, "Synthesizer", None)
    assert speak(folder, tmp_path / "cache") == first
    assert contents(tmp_path / "cache") == before


@needs_espeak
def test_other_files_counts_or_lengths_are_another_cache(tmp_path: Path) -> None:
    folder, cache = make_domain(tmp_path / "village"), tmp_path / "cache"
    places = [speak(folder, cache)["test"], speak(folder, cache, {**COUNTS, "train": 4})["test"]]
    places.append(speak(folder, cache, maximum_seconds=4.0)["test"])
    make_domain(folder, seed=8)
    places.append(speak(folder, cache)["test"])
    make_domain(folder, grammar={**GRAMMAR, "sentences": [*GRAMMAR["sentences"], "ask {who} why"]})
    places.append(speak(folder, cache)["test"])
    assert len(set(places)) == len(places)


@needs_espeak
def test_an_utterance_does_not_change_when_other_counts_are_asked_for(tmp_path: Path) -> None:
    folder = make_domain(tmp_path / "village")
    few = read_manifest(speak(folder, tmp_path / "few")["train"])
    many = read_manifest(speak(folder, tmp_path / "many", {"train": 8, "validation": 1, "test": 1})["train"])
    assert [one.text for one in few] == [one.text for one in many[:3]] and len(many) == 8
    assert all(one.audio.read_bytes() == two.audio.read_bytes() for one, two in zip(few, many, strict=False))


@needs_espeak
def test_splits_that_are_not_asked_for_have_no_manifest(tmp_path: Path) -> None:
    manifests = speak(make_domain(tmp_path / "village"), tmp_path / "cache", {"train": 0, "validation": 1, "test": 1})
    assert set(manifests) == {"validation", "test"} and not list((tmp_path / "cache").rglob("train*"))


@needs_espeak
def test_long_sentences_are_replaced_by_others(tmp_path: Path) -> None:
    def longest(maximum_seconds: float) -> tuple[int, float]:
        manifests = speak(folder, tmp_path / "cache", {"train": 4, "validation": 1, "test": 1}, maximum_seconds=maximum_seconds)
        durations = [utterance.duration for manifest in manifests.values() for utterance in read_manifest(manifest)]
        return len(durations), max(durations)

    folder = make_domain(tmp_path / "village", acoustics=[])
    assert longest(4.8)[1] > 1.5
    number, seconds = longest(1.5)
    assert number == 6 and seconds <= 1.5


@needs_espeak
@pytest.mark.parametrize("seconds", [4.8, 0.3])
def test_too_few_sentences_are_refused_and_leave_no_cache(tmp_path: Path, seconds: float) -> None:
    folder = make_domain(tmp_path / "village", acoustics=[])
    with pytest.raises(ConfigError, match=r"grammar\.yaml: too few distinct sentences \(.*train.* missing\); ask for fewer"):
        speak(folder, tmp_path / "cache", {"train": 400, "validation": 1, "test": 1}, maximum_seconds=seconds)
    assert not list((tmp_path / "cache").iterdir())


@needs_espeak
def test_a_killed_synthesis_leaves_no_half_cache_and_is_made_up_for(tmp_path: Path) -> None:
    folder, cache = make_domain(tmp_path / "village"), tmp_path / "cache"
    code = f"""
import os, signal
from pathlib import Path
from asrmerge.speech.domains import load_domain, synthesize_domain
spoken = []
def count():
    spoken.append(1)
    if len(spoken) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
synthesize_domain(load_domain({str(folder)!r}), {COUNTS!r}, Path({str(cache)!r}), maximum_seconds=4.8, on_utterance=count)
"""
    result = subprocess.run([sys.executable, "-c", code], check=False)
    assert result.returncode == -signal.SIGKILL
    assert not [path for path in cache.iterdir() if not path.name.startswith(".")]
    made = speak(folder, cache)
    for hidden in cache.glob(".*"):
        shutil.rmtree(hidden)
    speak(folder, tmp_path / "whole")
    assert contents(cache) == contents(tmp_path / "whole") and made["test"].is_file()


@needs_espeak
def test_babble_is_the_same_every_time_and_not_a_speaker_of_the_domain(tmp_path: Path) -> None:
    shipped = content_folder("domains") / "conversation"
    for cache in ("one", "two"):
        speak(shipped, tmp_path / cache, {"train": 1, "validation": 1, "test": 1})
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
