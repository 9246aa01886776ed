"""Utterances that cannot be used are skipped, counted and named; where nothing can, one sentence says why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import SECONDS, TEXTS
from safetensors.torch import load_file, save_file

from asrmerge.errors import AudioError, CheckpointError, ConfigError, ManifestError, StatisticsError
from asrmerge.recognizers.families.ctc import CtcRecognizer
from asrmerge.recognizers.families.whisper import WhisperRecognizer
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.collecting import collect_statistics
from asrmerge.statistics.settings import KINDS, StatisticsSettings
from asrmerge.statistics.subject import differentiable, load_subject

EMPIRICAL = StatisticsSettings(kinds=("fisher", "grams"), fisher="empirical")


def assert_as_if_never_given(
    folder: Path, utterances: list[Utterance], skipped: dict[str, str], output: Path, settings: StatisticsSettings
) -> None:
    """The same tensors as without them, whose names and reasons the header has."""
    subject = load_subject(str(folder))
    good = [one for one in utterances if one.identifier not in skipped]
    found = collect_statistics(subject, utterances, output / "all", settings)
    collect_statistics(subject, good, output / "good", settings)
    for kind, header in found.items():
        assert header.skipped == skipped and header.utterances == len(good) < len(utterances)
        assert header.seconds == pytest.approx(sum(one.duration for one in good), abs=1e-3)
        one, other = (load_file(output / place / f"{kind}.safetensors") for place in ("all", "good"))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_utterances_that_are_too_short_or_too_long(
    make_ctc: Callable[..., Path], make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    utterances = speak([0.5, 0.005, 1.2, 0.6], TEXTS)
    short = {"said-1": "shorter than a frame"}
    assert_as_if_never_given(make_ctc(), utterances, short, tmp_path / "ctc", EMPIRICAL)
    long = short | {"said-2": "longer than the model's window of 1 s"}
    assert_as_if_never_given(make_whisper(), utterances, long, tmp_path / "whisper", EMPIRICAL)


def test_texts_that_do_not_fit(
    make_ctc: Callable[..., Path],
    make_whisper: Callable[..., Path],
    speak: Callable[..., list],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A CTC text into its audio: only where it counts. A Whisper text into the decoder: wherever it is fed."""
    long = "so many words that no model can have heard all of them here"
    utterances = speak(SECONDS, [*TEXTS[:2], long, TEXTS[3]])
    folder = make_ctc()
    with caplog.at_level(logging.WARNING):
        skipped = {"said-2": "its text does not fit in its audio"}
        assert_as_if_never_given(folder, utterances, skipped, tmp_path / "ctc", EMPIRICAL)
    assert f"statistics of {folder}: 1 utterances skipped (said-2: its text does not fit in its audio)" in caplog.messages
    for settings in (StatisticsSettings(kinds=("grams",)), StatisticsSettings(kinds=("fisher",))):
        found = collect_statistics(load_subject(str(folder)), utterances, tmp_path / "unread", settings)
        assert all(header.utterances == 4 and not header.skipped for header in found.values())
    whisper = make_whisper()
    for settings in (EMPIRICAL, StatisticsSettings(kinds=("grams",))):
        skipped = {"said-2": "its text is longer than the decoder"}
        assert_as_if_never_given(whisper, utterances, skipped, tmp_path / "whisper" / settings.kinds[0], settings)


@pytest.mark.parametrize("family", ["ctc", "whisper"])
@pytest.mark.parametrize("problem", ["gradient", "square", "loss"])
def test_gradients_that_are_not_finite(
    family: str,
    problem: str,
    make_ctc: Callable[..., Path],
    make_whisper: Callable[..., Path],
    speak: Callable[..., list],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of two utterances: the slope of a root at zero; a slope whose square is no float32; no likelihood at all."""
    kind: Any = CtcRecognizer if family == "ctc" else WhisperRecognizer
    likelihoods = kind.negative_log_likelihoods
    bad: set[int] = set()

    def broken(self: Any, logits: torch.Tensor, batch: Any, labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = likelihoods(self, logits, batch, labels)
        if batch["labels"].shape[1] not in bad:
            return found
        changes = {
            "gradient": lambda: found + (logits.sum() * 0).sqrt(),
            "square": lambda: found * 1e22,
            "loss": lambda: found * torch.nan,
        }
        return changes[problem]()

    monkeypatch.setattr(kind, "negative_log_likelihoods", broken)
    folder = make_ctc() if family == "ctc" else make_whisper()
    texts = ["ab cd", "hello you", "no", "a bad"]
    utterances = speak(SECONDS, texts)
    recognizer = load_subject(str(folder)).recognizer
    bad |= {recognizer.labels([text]).shape[1] for text in texts[1:3]}  # known by their lengths
    reason = "its likelihood is not a number" if problem == "loss" else "its gradients are not finite"
    skipped = {"said-1": reason, "said-2": reason}
    everything = StatisticsSettings(kinds=KINDS, fisher="empirical")
    with caplog.at_level(logging.WARNING):
        assert_as_if_never_given(folder, utterances, skipped, tmp_path / "out", everything)
    assert f"2 utterances skipped (said-1: {reason}; said-2: {reason})" in caplog.text
    message = f"No utterance of {folder} gave statistics, said-1 because {reason}: check the model with asrmerge evaluate"
    with pytest.raises(StatisticsError, match=message):
        collect_statistics(load_subject(str(folder)), utterances[1:3], tmp_path / "none", everything)
    assert not list((tmp_path / "none").glob("[!.]*"))


def test_one_of_several_draws_may_fail(
    make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean is over the others."""
    (utterance,) = speak(SECONDS[:1], TEXTS[:1])
    settings = StatisticsSettings(kinds=("fisher",), draws=2)
    subject = load_subject(str(make_whisper()))
    collect_statistics(subject, [utterance], tmp_path / "one", settings.model_copy(update={"draws": 1}))
    likelihoods, calls = WhisperRecognizer.negative_log_likelihoods, []

    def broken(self: Any, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        return likelihoods(self, *arguments) * (torch.inf if len(calls) == 2 else 1.0)

    monkeypatch.setattr(WhisperRecognizer, "negative_log_likelihoods", broken)
    header = collect_statistics(subject, [utterance], tmp_path / "two", settings)["fisher"]
    assert len(calls) == 2 and header.utterances == 1 and not header.skipped
    one, two = (load_file(tmp_path / place / "fisher.safetensors") for place in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_nothing_that_can_be_used(make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    folder = make_whisper()
    subject = load_subject(str(folder))
    with pytest.raises(ManifestError, match=f"There is no audio for statistics of {folder}: give some"):
        collect_statistics(subject, [], tmp_path / "out", EMPIRICAL)
    long = speak([1.2, 1.3], TEXTS[:2])
    message = (
        rf"None of the 2 utterances can be used for statistics of {folder}: the first is longer than the model's window of 1 s"
    )
    with pytest.raises(ManifestError, match=message):
        collect_statistics(subject, long, tmp_path / "out", EMPIRICAL)
    assert not (tmp_path / "out").exists()


def test_many_that_are_skipped_are_not_all_named(
    make_whisper: Callable[..., Path], speak: Callable[..., list], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    utterances = speak([0.5, *[1.1] * 5], ["a"] * 6)
    with caplog.at_level(logging.WARNING):
        found = collect_statistics(load_subject(str(make_whisper())), utterances, tmp_path, StatisticsSettings(kinds=("grams",)))
    assert len(found["grams"].skipped) == 5
    assert "5 utterances skipped (said-1: longer" in caplog.text and "window of 1 s; and 2 more)" in caplog.text


@pytest.mark.parametrize("kinds", [("fisher",), ("grams",)])
def test_a_model_that_diverged(kinds: tuple, make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path) -> None:
    folder = make_ctc()
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.bias"][3] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings = StatisticsSettings(kinds=kinds)
    with pytest.raises(StatisticsError, match=f"{folder} gives NaN or Inf for said-[01]: the training diverged; take an earlier"):
        collect_statistics(load_subject(str(folder)), speak([0.5, 0.5], ["a", "b"]), tmp_path / "out", settings)
    assert not list((tmp_path / "out").glob("*"))


def test_the_utterance_that_a_model_fails_on_is_named(
    make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = CtcRecognizer.logits
    utterances = speak([0.5, 0.6, 0.55], ["a", "b", "c"])

    def broken(self: Any, batch: Any) -> torch.Tensor:
        found: torch.Tensor = logits(self, batch)
        found[batch["labels"][:, 0] == self.labels(["b"])[0, 0], 2, 1] = torch.inf
        return found

    monkeypatch.setattr(CtcRecognizer, "logits", broken)
    with pytest.raises(StatisticsError, match="NaN or Inf for said-1:"):
        settings = StatisticsSettings(kinds=("grams",), batch_seconds=9)
        collect_statistics(load_subject(str(make_ctc())), utterances, tmp_path / "out", settings)


def test_audio_that_is_not_there_is_told_before_any_work(
    make_ctc: Callable[..., Path], speak: Callable[..., list], tmp_path: Path
) -> None:
    first, last = speak([0.5, 0.6], ["a", "b"])
    told: list[int] = []
    with pytest.raises(AudioError, match=r"gone\.wav"):
        collect_statistics(
            load_subject(str(make_ctc())),
            [first, replace(last, audio=tmp_path / "gone.wav")],
            tmp_path / "out",
            EMPIRICAL,
            on_utterance=lambda done, _: told.append(done),
        )
    assert not told and not (tmp_path / "out").exists()


def test_families_that_do_not_show_their_likelihoods(monkeypatch: pytest.MonkeyPatch, make_ctc: Callable[..., Path]) -> None:
    blind: Any = SimpleNamespace(family="blind", model=None)
    message = "mine is of the family blind, which does not show its likelihoods: give it the methods of DifferentiableRecognizer"
    with pytest.raises(ConfigError, match=message):
        differentiable(blind, "mine")
    folder = make_ctc()
    monkeypatch.setattr("asrmerge.statistics.subject.load_recognizer", lambda *_, **__: blind)
    with pytest.raises(ConfigError, match=f"{folder} is of the family blind"):
        load_subject(str(folder))


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none"):
        load_subject(str(tmp_path / "none"))
