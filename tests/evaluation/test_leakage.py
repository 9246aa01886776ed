"""Leakage: the same audio is found under another name, in another container, as a part of a file; near-duplicates are found."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrmerge.errors import AudioError, ManifestError
from asrmerge.evaluation import leakage
from asrmerge.evaluation.leakage import AudioHashes, NearDuplicate, check_disjoint, near_duplicates
from asrmerge.speech.audio import hash_audio, write_audio
from asrmerge.speech.manifest import Utterance


def utterance(path: Path, value: float) -> Utterance:
    write_audio(path, np.full(50, value))
    return Utterance(path.stem, path, 50 / 16_000, "text")


def said(identifier: str, text: str, duration: float, speaker: str | None = None) -> Utterance:
    return Utterance(identifier, Path(f"{identifier}.wav"), duration, text, speaker)


utterances = st.builds(
    said,
    st.text("abc", min_size=1),
    st.sampled_from(["yes", "no"]),
    st.integers(95, 110).map(lambda hundredths: hundredths / 100),
    st.sampled_from([None, "f", "m"]),
)


def test_different_audio_passes(tmp_path: Path) -> None:
    check_disjoint([utterance(tmp_path / "a.wav", 0.1)], [utterance(tmp_path / "b.wav", 0.2)])
    check_disjoint([], [])


def test_the_same_audio_is_refused_naming_both(tmp_path: Path) -> None:
    training = [utterance(tmp_path / "train.wav", 0.1), utterance(tmp_path / "fine.wav", 0.3)]
    test = [utterance(tmp_path / "ok.wav", 0.2), utterance(tmp_path / "copy.flac", 0.1)]
    message = (
        rf"Test utterance 'copy' \({tmp_path}/copy.flac\) has the same audio as training utterance "
        rf"'train' \({tmp_path}/train.wav\); take it out of one of the two manifests\.$"
    )
    with pytest.raises(ManifestError, match=message):
        check_disjoint(training, test)
    with pytest.raises(ManifestError, match="and 1 more has the same audio"):
        check_disjoint(training, [*test, test[1]])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Ten seconds of noise."""
    write_audio(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 160_000))
    return tmp_path / "long.wav"


def part(recording: Path, start: float | None, duration: float) -> Utterance:
    return Utterance(f"{start}", recording, duration, "text", start=start)


def test_parts_of_one_recording_pass_where_they_share_no_time(recording: Path) -> None:
    check_disjoint([part(recording, 0.0, 3.0), part(recording, 6.0, 2.0)], [part(recording, 3.0, 3.0), part(recording, 8.0, 2.0)])
    check_disjoint([part(recording, 0.0, 3.2)], [part(recording, 2.8, 3.0)])  # cut generously


@pytest.mark.parametrize(
    ("trained", "tested"),
    [
        ((0.0, 3.0), (2.0, 3.0)),
        ((2.0, 3.0), (0.0, 3.0)),
        ((1.0, 8.0), (4.0, 1.0)),
        ((4.0, 1.0), (1.0, 8.0)),
        ((0.0, 5.0), (4.8, 0.3)),
    ],
)
def test_parts_of_one_recording_that_share_time_are_refused(
    recording: Path, trained: tuple[float, float], tested: tuple[float, float]
) -> None:
    others = [part(recording, 9.5, 0.3), part(recording, 0.0, 0.1)]
    with pytest.raises(
        ManifestError, match=rf"Test utterance '{tested[0]}' .* has the same audio as training utterance '{trained[0]}'"
    ):
        check_disjoint([*others, part(recording, *trained)], [part(recording, *tested)])
    for whole in (
        ([part(recording, None, 10.0)], [part(recording, *tested)]),
        ([part(recording, *tested)], [part(recording, None, 10.0)]),
    ):
        with pytest.raises(ManifestError, match="has the same audio"):
            check_disjoint(*whole)


def test_a_part_that_was_exported_to_a_file_is_refused(recording: Path, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 160_000)
    write_audio(tmp_path / "clip.flac", samples[32_000:64_000])
    with pytest.raises(ManifestError, match=r"Test utterance 'clip' .* has the same audio as training utterance '2\.0'"):
        check_disjoint([part(recording, 2.0, 2.0)], [Utterance("clip", tmp_path / "clip.flac", 2.0, "text")])


def test_unreadable_test_audio_is_refused_or_left_to_the_decoder(tmp_path: Path) -> None:
    good, bad = utterance(tmp_path / "a.wav", 0.1), Utterance("bad", tmp_path / "bad.wav", 0.0, "text")
    bad.audio.write_bytes(b"no sound")
    for training, test in (([good], [bad]), ([bad], [good])):
        with pytest.raises(AudioError, match=r"bad\.wav"):
            check_disjoint(training, test)
    check_disjoint([good], [bad], skip_unreadable=True)
    with pytest.raises(ManifestError, match="Test utterance 'a'"):
        check_disjoint([good], [bad, good], skip_unreadable=True)


def test_hashes_are_taken_once_and_anew_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(leakage, "hash_audio", lambda path, **part: taken.append(path.name) or hash_audio(path, **part))
    hashes = AudioHashes()
    training, test = [utterance(tmp_path / "a.wav", 0.1)], [utterance(tmp_path / "b.wav", 0.2)]
    for _ in range(3):
        check_disjoint(training, test, hashes)
    assert sorted(taken) == ["a.wav", "b.wav"]
    test = [utterance(tmp_path / "b.wav", 0.1)]
    with pytest.raises(ManifestError, match="has the same audio"):
        check_disjoint(training, test, hashes)


def test_audio_of_other_lengths_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "hash_audio", lambda path, **part: pytest.fail("decoded"))
    write_audio(tmp_path / "long.wav", np.full(60, 0.1))
    check_disjoint([utterance(tmp_path / "a.wav", 0.1)], [Utterance("long", tmp_path / "long.wav", 60 / 16_000, "text")])


def test_near_duplicates_have_text_duration_and_perhaps_speaker_in_common() -> None:
    training = [said("t1", "Take two, please.", 3.0, "f"), said("t2", "stop", 1.0, "m"), said("t3", "stop", 1.015)]
    test = [
        said("same", "take two please", 3.05, "f"),
        said("unknown", "take two please", 2.95),
        said("other-speaker", "take two please", 3.0, "m"),
        said("longer", "take two please", 3.2, "f"),
        said("other-text", "take three please", 3.0, "f"),
        said("nearest", "stop", 1.012, "m"),
        said("known-here-alone", "stop", 1.01, "x"),
        said("silence", "", 3.0),
    ]
    found = near_duplicates([*training, said("empty", "...", 3.0)], test)
    assert [(one.test.identifier, one.training.identifier) for one in found] == [
        ("same", "t1"),
        ("unknown", "t1"),
        ("nearest", "t3"),
        ("known-here-alone", "t3"),
    ]
    assert str(NearDuplicate(test[0], training[0])) == (
        "test utterance 'same' has text and duration of training utterance 't1' (3.05 and 3 s)"
    )


def test_near_duplicates_by_another_normaliser_and_tolerance() -> None:
    training, test = [said("t", "Stop", 1.0)], [said("x", "stop", 1.08)]
    assert near_duplicates(training, test) == near_duplicates(training, test, normalize=lambda text: text, tolerance=0.1) == ()
    assert len(near_duplicates(training, test, normalize=str.lower, tolerance=0.1)) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(utterances, max_size=12), st.lists(utterances, max_size=6))
def test_near_duplicates_are_those_of_comparing_each_with_each(training: list[Utterance], test: list[Utterance]) -> None:
    def alike(one: Utterance, other: Utterance) -> bool:
        speakers = {one.speaker, other.speaker}
        near = abs(one.duration - other.duration) <= 0.02 * one.duration + 1e-9
        return one.text == other.text and near and (None in speakers or len(speakers) == 1)

    expected = [one.identifier for one in test if any(alike(one, other) for other in training)]
    assert [one.test.identifier for one in near_duplicates(training, test)] == expected
    assert all(alike(one.test, one.training) for one in near_duplicates(training, test))


@pytest.mark.parametrize("count", [20_000])
def test_near_duplicates_of_many_utterances_of_one_text_take_no_square_of_time(count: int) -> None:
    training = [said(f"a{number}", "yes", 1 + number / count) for number in range(count)]
    test = [said(f"b{number}", "yes", 1 + number / count) for number in range(count)]
    began = time.monotonic()
    assert len(near_duplicates(training, test)) == count and time.monotonic() - began < 5
