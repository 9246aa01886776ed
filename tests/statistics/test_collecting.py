"""Going on after a kill, starting anew after a change, keeping what is there: always the same bytes."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import SECONDS, TEXTS
from safetensors.torch import load_file, save_file

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import StatisticsError
from asrmerge.merging.artefact import Header, read_header
from asrmerge.speech.audio import write_audio
from asrmerge.speech.manifest import Utterance, read_manifest
from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.partial import PARTIAL_FILE, Partial
from asrmerge.statistics.settings import KINDS, StatisticsSettings
from asrmerge.statistics.subject import Subject, load_subject

SCRIPT = Path(__file__).parent / "collecting_killed.py"


class StoppedError(Exception):
    """What stands for a kill where no process dies."""


def collect(
    subject: Subject, heard: list[Utterance] | tuple[Utterance, ...], output: Path, *, stop: int = 0, **settings: object
) -> list[int]:
    """Collect, or stop when so many utterances are done; what was told of progress."""
    told: list[int] = []

    def tell(done: int, total: int) -> None:
        assert total == len(heard)
        told.append(done)
        if stop and done >= stop:
            raise StoppedError

    try:
        chosen = StatisticsSettings.model_validate(settings)
        collect_statistics(subject, heard, output, chosen, keep_every=0, on_utterance=tell)
    except StoppedError:
        assert (output / PARTIAL_FILE).is_file()
    return told


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def header(folder: Path, kind: str) -> Header:
    found = read_header(SafetensorsReader(folder / f"{kind}.safetensors"))
    assert found is not None
    return found


def write_manifest(utterances: list[Utterance], path: Path) -> Path:
    lines = [
        json.dumps({"audio_filepath": str(one.audio), "duration": one.duration, "text": one.text, "id": one.identifier})
        for one in utterances
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kinds", [KINDS, ("grams", "activations")])
def test_a_killed_collection_goes_on_to_the_same_bytes(
    kinds: tuple, make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    folder = make_whisper()
    utterances = read_manifest(write_manifest(speak(SECONDS * 2, TEXTS * 2), tmp_path / "said.jsonl"))
    settings = StatisticsSettings(kinds=kinds, draws=2, batch_seconds=2)
    command = [str(folder), str(tmp_path / "said.jsonl"), str(tmp_path / "killed"), settings.model_dump_json(), "5"]
    killed = subprocess.run([sys.executable, str(SCRIPT), *command], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(files(tmp_path / "killed")) == [PARTIAL_FILE]
    (tmp_path / "killed" / f".{PARTIAL_FILE}.half").mkdir()  # what a kill in the middle of a write leaves
    whole = collect(load_subject(str(folder)), utterances, tmp_path / "whole", **settings.model_dump())
    rest = collect(load_subject(str(folder)), utterances, tmp_path / "killed", **settings.model_dump())
    assert rest == whole[-len(rest) :] and 0 < len(rest) < len(whole) and whole[-1] == 8
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert files(tmp_path / "whole").keys() == {f"{kind}.safetensors" for kind in kinds}


def test_skipped_utterances_are_remembered(make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    utterances = speak(SECONDS, ["far too long a text for so little audio", *TEXTS[1:]])
    settings = {"kinds": ("fisher",), "fisher": "empirical"}
    subject = load_subject(str(make_ctc()))
    collect(subject, utterances, tmp_path / "out", stop=3, **settings)
    assert collect(subject, utterances, tmp_path / "out", **settings) == [3, 4]
    found = header(tmp_path / "out", "fisher")
    assert found.utterances == 3 and found.skipped == {"said-0": "its text does not fit in its audio"}


Changes = dict[str, Callable[[Path, list[Utterance], dict], tuple[Path, list[Utterance], dict]]]


def _changed_weights(folder: Path, utterances: list[Utterance], settings: dict) -> tuple[Path, list[Utterance], dict]:
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.layer_norm.weight"] *= 1.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, utterances, settings


def _changed_audio(folder: Path, utterances: list[Utterance], settings: dict) -> tuple[Path, list[Utterance], dict]:
    """The same path and length, other samples."""
    write_audio(utterances[0].audio, torch.randn(round(16_000 * utterances[0].duration)).numpy() * 0.1)
    return folder, utterances, settings


CHANGES: Changes = {
    "weights": _changed_weights,
    "audio": _changed_audio,
    "text": lambda folder, said, settings: (folder, [replace(said[0], text="dab"), *said[1:]], settings),
    "fewer": lambda folder, said, settings: (folder, said[1:], settings),
    "seed": lambda folder, said, settings: (folder, said, settings | {"seed": 7}),
    "variant": lambda folder, said, settings: (folder, said, settings | {"fisher": "empirical"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_it_starts_anew(
    change: str, make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    folder, utterances = make_whisper(), speak(SECONDS, TEXTS)
    settings: dict = {"kinds": ("fisher",)}
    subject = load_subject(str(folder))
    collect(subject, utterances, tmp_path / "partial", stop=3, **settings)
    collect(subject, utterances, tmp_path / "done", **settings)
    before = header(tmp_path / "done", "fisher")
    folder, utterances, settings = CHANGES[change](folder, utterances, settings)
    subject = load_subject(str(folder))
    for place in ("fresh", "partial", "done"):
        assert collect(subject, utterances, tmp_path / place, **settings)[0] == 1
    fresh, partial, done = (files(tmp_path / place) for place in ("fresh", "partial", "done"))
    assert fresh == partial == done
    assert header(tmp_path / "done", "fisher").key != before.key


def test_another_language_is_another_prompt(
    make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    folder, utterances = make_whisper(multilingual=True), speak(SECONDS[:2], TEXTS[:2])
    told = [
        collect(load_subject(str(folder), language=language), utterances, tmp_path / "out", kinds=("fisher",))
        for language in ("en", "en", "de")
    ]
    assert told == [[1, 2], [], [1, 2]]
    german = load_file(tmp_path / "out" / "fisher.safetensors")
    collect(load_subject(str(folder), language="en"), utterances, tmp_path / "out", kinds=("fisher",))
    english = load_file(tmp_path / "out" / "fisher.safetensors")
    assert not torch.equal(german["model.decoder.layer_norm.bias"], english["model.decoder.layer_norm.bias"])


def test_the_same_audio_elsewhere_is_the_same(make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    subject, utterances = load_subject(str(make_ctc())), speak(SECONDS[:2], TEXTS[:2])
    assert collect(subject, utterances, tmp_path / "out", kinds=("fisher",)) == [1, 2]
    moved = [replace(one, audio=one.audio.rename(tmp_path / one.audio.name)) for one in utterances]
    assert collect(subject, moved, tmp_path / "out", kinds=("fisher",)) == []


def test_what_is_there_is_kept_and_what_is_missing_added(
    make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    subject, utterances, output = load_subject(str(make_ctc())), speak(SECONDS, TEXTS), tmp_path / "out"
    fisher = output / "fisher.safetensors"
    assert len(collect(subject, utterances, output, kinds=("fisher",))) == 4
    first = fisher.stat()
    assert collect(subject, utterances, output, kinds=("fisher",)) == []
    told = collect(subject, utterances, output, kinds=("fisher", "grams"), batch_seconds=9)
    assert told == [4]  # one batch, as Gram matrices by themselves need no gradients
    assert (fisher.stat().st_ino, fisher.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    found = collect_statistics(subject, utterances, output, StatisticsSettings(kinds=("grams", "fisher")))
    assert list(found) == ["grams", "fisher"] and [one.kind for one in found.values()] == ["grams", "fisher"]
    assert {path.name for path in output.iterdir()} == {"fisher.safetensors", "grams.safetensors"}
    # Weights of padding decide Gram matrices, and nothing of the Fisher.
    assert collect(subject, utterances, output, kinds=("fisher", "grams"), padding_every=3, batch_seconds=9) == [4]
    assert fisher.stat().st_ino == first.st_ino


def test_damaged_files_are_made_again(make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    subject, utterances, output = load_subject(str(make_ctc())), speak(SECONDS[:2], TEXTS[:2]), tmp_path / "out"
    collect(subject, utterances, output, kinds=("fisher",))
    whole = files(output)
    for damage in (b"", whole["fisher.safetensors"][:-9], b"nonsense" * 99):
        (output / "fisher.safetensors").write_bytes(damage)
        (output / PARTIAL_FILE).write_bytes(damage)
        assert collect(subject, utterances, output, kinds=("fisher",)) == [1, 2]
        assert files(output) == whole
    save_file({"x": torch.ones(1)}, output / "fisher.safetensors")
    save_file({"x": torch.ones(1)}, output / PARTIAL_FILE, metadata={"partial": "{}"})
    assert collect(subject, utterances, output, kinds=("fisher",)) == [1, 2]
    assert files(output) == whole


def test_a_failed_collection_leaves_the_earlier_file(
    make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    subject, utterances, output = load_subject(str(make_ctc())), speak(SECONDS[:2], TEXTS[:2]), tmp_path / "out"
    collect(subject, utterances, output, kinds=("fisher",))
    before = files(output)
    impossible = [replace(one, text="far too long a text for so little audio") for one in utterances]
    with pytest.raises(StatisticsError):
        collect(subject, impossible, output, kinds=("fisher",), fisher="empirical")
    assert files(output)["fisher.safetensors"] == before["fisher.safetensors"]


def test_so_many_utterances_are_drawn_by_the_seed(
    make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    subject, utterances = load_subject(str(make_ctc())), speak([0.3, 0.35, 0.4, 0.45, 0.5, 0.55], ["a"] * 6)
    seconds = set()
    for seed in range(4):
        settings = StatisticsSettings(kinds=("grams",), utterances=2, seed=seed)
        found = collect_statistics(subject, utterances, tmp_path / str(seed), settings)["grams"]
        assert found.utterances == 2
        seconds.add(found.seconds)
    assert len(seconds) > 1
    every = StatisticsSettings(kinds=("grams",), utterances=6)
    assert collect_statistics(subject, utterances, tmp_path / "all", every)["grams"].utterances == 6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that goes on when the test says so, or by what a write takes."""
    now = [100.0]
    monkeypatch.setattr("asrmerge.statistics.partial.time.monotonic", lambda: now[0])
    yield now


def test_sums_are_written_now_and_then(clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: list[float] = []

    def write(self: Partial, *_: object) -> None:
        written.append(clock[0])
        clock[0] += 3.0  # what it takes

    monkeypatch.setattr(Partial, "write", write)
    partial = Partial(tmp_path, "key", 30.0)
    for _ in range(200):
        clock[0] += 1.0
        partial.write_sometimes([], {})
    # First after thirty seconds; a write of three seconds may happen every sixty.
    assert written[0] == 130.0 and {round(b - a) for a, b in itertools.pairwise(written)} == {63}


def test_files_can_be_read_by_everyone(make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    collect(load_subject(str(make_ctc())), speak([0.5], ["a"]), tmp_path / "out", kinds=("fisher",))
    assert (tmp_path / "out" / "fisher.safetensors").stat().st_mode & 0o777 == 0o644
