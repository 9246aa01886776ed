"""Audio beside a report: what is linked, what is copied, under which names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.report import audio_links, copy_audio
from asrmerge.speech.audio import read_audio, write_audio


def heard(identifier: str, audio: Path, start: float | None = None, duration: float = 0.5) -> Hypothesis:
    return Hypothesis(identifier, audio, duration, "said", "heard", start=start)


def tone(path: Path, seconds: float = 2.0) -> Path:
    """A ramp, so that every moment is told from every other."""
    write_audio(path, np.linspace(-0.5, 0.5, round(16_000 * seconds)))
    return path


def models(found: Mapping[str, list[Hypothesis]]) -> dict[str, Mapping[str, list[Hypothesis]]]:
    return {"a": found, "b": found}


@pytest.mark.parametrize(
    ("name", "start", "link"),
    [
        ("one.wav", None, "one.wav"),
        ("deeper/still/one.flac", None, "deeper/still/one.flac"),
        ("wörds & 50% #1?.wav", None, "w%C3%B6rds%20%26%2050%25%20%231%3F.wav"),
        ("a:b.wav", None, "a%3Ab.wav"),
        ("one.wav", 1.25, "one.wav#t=1.25,1.75"),
        ("one.wav", 12345.678, "one.wav#t=12345.678,12346.178"),
        ("one.wav", 0.0, "one.wav#t=0,0.5"),
    ],
)
def test_audio_beside_the_report_is_linked(tmp_path: Path, name: str, start: float | None, link: str) -> None:
    audio = tone(tmp_path / "report" / name)
    assert audio_links(tmp_path / "report", models({"legal": [heard("1", audio, start)]})) == {"legal": {"1": link}}
    assert (tmp_path / "report" / unquote(link.partition("#")[0])).is_file()


def test_audio_elsewhere_or_missing_has_no_link(tmp_path: Path) -> None:
    outside = tone(tmp_path / "outside.wav")
    found = {"legal": [heard("1", outside), heard("2", tmp_path / "report" / "missing.wav")]}
    assert audio_links(tmp_path / "report", models(found)) == {}
    assert audio_links(tmp_path / "report", {}) == {}


def test_a_link_into_the_folder_and_a_folder_that_is_a_link_are_followed(tmp_path: Path) -> None:
    tone(tmp_path / "elsewhere" / "one.wav")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "clips").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "alias").symlink_to(tmp_path / "report")
    expected = {"legal": {"1": "clips/one.wav"}}
    for folder, audio in (("report", "report/clips"), ("alias", "alias/clips"), ("report", "alias/../report/clips")):
        assert audio_links(tmp_path / folder, models({"legal": [heard("1", tmp_path / audio / "one.wav")]})) == expected


def test_copies_hold_just_the_utterance(tmp_path: Path) -> None:
    audio = tone(tmp_path / "long.wav")
    found = {"legal": [heard("whole", audio), heard("part", audio, start=1.0)]}
    links = copy_audio(tmp_path / "report", models(found))
    assert links == {"legal": {"whole": "audio/legal/whole.flac", "part": "audio/legal/part.flac"}}
    samples = read_audio(audio)
    np.testing.assert_array_equal(read_audio(tmp_path / "report" / links["legal"]["whole"]), samples)
    np.testing.assert_array_equal(read_audio(tmp_path / "report" / links["legal"]["part"]), samples[16_000:24_000])


def test_copies_have_safe_names_of_their_own(tmp_path: Path) -> None:
    audio = tone(tmp_path / "one.wav", 0.1)
    names = ["../../evil", "A", "a", "///", "x" * 300, "spoken words"]
    links = copy_audio(
        tmp_path / "report", models({"../up": [heard(name, audio) for name in names], "..up": [heard("1", audio)]})
    )
    files = {path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report").rglob("*.flac")}
    assert files == {unquote(link) for found in links.values() for link in found.values()}
    assert len(files) == len({file.lower() for file in files}) == len(names) + 1
    assert max(len(Path(file).name) for file in files) < 100
    assert not list(tmp_path.glob("*.flac"))


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    good = tone(tmp_path / "good.wav")
    found = {"legal": [heard("1", broken), heard("2", tmp_path / "none.wav"), heard("3", good), heard("4", good, start=60.0)]}
    assert copy_audio(tmp_path / "report", models(found)) == {"legal": {"3": "audio/legal/3.flac"}}
    assert [path.name for path in (tmp_path / "report").rglob("*.*")] == ["3.flac"]


def test_originals_are_never_written_over(tmp_path: Path) -> None:
    report = tmp_path / "report"
    inside = tone(report / "audio" / "legal" / "2.flac")
    outside = tone(tmp_path / "elsewhere" / "1.wav", 0.1)
    before = inside.read_bytes()
    links = copy_audio(report, models({"legal": [heard("1", inside), heard("2", outside)]}))
    assert links == {"legal": {"1": "audio/legal/2.flac", "2": "audio/legal/2-2.flac"}}
    assert inside.read_bytes() == before
