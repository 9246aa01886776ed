"""Data sets with an Audio column: kept as files without torchcodec, once, and resumed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asrmerge.errors import ManifestError
from asrmerge.speech.audio import read_audio
from asrmerge.speech.corpora import read_corpus
from asrmerge.speech.manifest import Utterance

datasets = pytest.importorskip("datasets", reason="the library 'datasets' is not installed")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
COUNT = 6


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    datasets.disable_progress_bars()


def encoded(seconds: float, file_format: str = "FLAC") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.full(int(seconds * 16_000), seconds), 16_000, format=file_format)
    return stream.getvalue()


def table(**columns: Any) -> Any:
    rows = range(COUNT)
    content = {
        "audio": [{"bytes": encoded((row + 1) / 10), "path": f"clip{row}.flac"} for row in rows],
        "sentence": [f"text {row}" for row in rows],
        "speaker_id": [row // 2 for row in rows],
        "accent": [row % 2 for row in rows],
        "snr": [0.5] * COUNT,
        **columns,
    }
    made = datasets.Dataset.from_dict(content).cast_column("audio", datasets.Audio())
    return made.cast_column("accent", datasets.ClassLabel(names=["us", "uk"]))


def read(tmp_path: Path, source: str, **options: Any) -> tuple[Utterance, ...]:
    return read_corpus(source, cache=tmp_path / "cache", **options)


def kept(tmp_path: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}


def test_saved_data_sets_are_kept_as_files_once(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "saved")
    utterances = read(tmp_path, str(tmp_path / "saved"))
    assert [(one.identifier, one.text, one.speaker, one.duration) for one in utterances] == [
        (f"clip{row}", f"text {row}", str(row // 2), (row + 1) / 10) for row in range(COUNT)
    ]
    assert utterances[1].fields == {"accent": "uk", "snr": "0.5"}
    assert all(one.audio.suffix == ".flac" and abs(read_audio(one.audio)[0] - one.duration) < 1e-4 for one in utterances)
    before = kept(tmp_path)
    assert read(tmp_path, f"datasets:{tmp_path}/saved") == utterances and kept(tmp_path) == before
    utterances[2].audio.unlink()
    assert read(tmp_path, str(tmp_path / "saved")) == utterances and utterances[2].audio.is_file()


def test_other_content_is_read_anew(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "one")
    table(sentence=["other"] * COUNT).save_to_disk(tmp_path / "two")
    read(tmp_path, str(tmp_path / "one"))
    (tmp_path / "one").rename(tmp_path / "old")
    (tmp_path / "two").rename(tmp_path / "one")
    assert {one.text for one in read(tmp_path, str(tmp_path / "one"))} == {"other"}


@pytest.mark.parametrize("options", ["split=test", "streaming", "split=test,streaming,limit=4"])
def test_data_sets_that_are_loaded_streamed_or_not(tmp_path: Path, options: str) -> None:
    (tmp_path / "data").mkdir()
    table().to_parquet(tmp_path / "data" / "test.parquet")
    utterances = read(tmp_path, f"datasets:{tmp_path}/data,{options}", domain="legal")
    count = 4 if "limit" in options else COUNT
    assert [one.text for one in utterances] == [f"text {row}" for row in range(count)]
    assert {one.domain for one in utterances} == {"legal"} and utterances[1].fields["accent"] == "uk"


@pytest.mark.parametrize("streaming", ["", ",streaming"])
def test_a_reading_that_broke_off_goes_on_there(tmp_path: Path, streaming: str) -> None:
    (tmp_path / "data").mkdir()
    table().to_parquet(tmp_path / "data" / "test.parquet")
    source = f"datasets:{tmp_path}/data,split=test{streaming}"

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 4:
            raise KeyboardInterrupt

    told: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path, source, on_progress=stop)
    (partial,) = (tmp_path / "cache").rglob("*.partial")
    with partial.open("ab") as stream:
        stream.write(b'{"audio_filepath": "torn')
    total = 0 if streaming else COUNT
    told.clear()
    utterances = read(tmp_path, source, on_progress=lambda done, total: told.append((done, total)))
    assert told[:2] == [(5, total), (6, total)] and [one.text for one in utterances] == [f"text {row}" for row in range(COUNT)]
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_ids_that_repeat_are_numbered(tmp_path: Path) -> None:
    table(id=[7, 7, 8, 8, 8, 9]).save_to_disk(tmp_path / "saved")
    assert [one.identifier for one in read(tmp_path, str(tmp_path / "saved"))] == ["7", "7-2", "8", "8-2", "8-3", "9"]


@pytest.mark.parametrize("streaming", ["", ",streaming"])
def test_files_that_are_there_are_taken_where_they_lie(tmp_path: Path, streaming: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for row in range(COUNT):
        (data / f"clip{row}.wav").write_bytes(encoded(0.5, "WAV"))
    features = datasets.Features({"audio": datasets.Audio(), "text": datasets.Value("string")})
    rows = [{"audio": {"bytes": None, "path": str(data / f"clip{row}.wav")}, "text": f"text {row}"} for row in range(COUNT)]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema), data / "test.parquet")
    utterances = read(tmp_path, f"datasets:{data},split=test{streaming}")
    expected = [(data / f"clip{row}.wav", f"text {row}", 0.5) for row in range(COUNT)]
    assert [(one.audio, one.text, one.duration) for one in utterances] == expected
    assert not list((tmp_path / "cache").rglob("*.wav"))


def test_corrupt_audio_stays_for_the_decoder_to_report(tmp_path: Path) -> None:
    audio = [{"bytes": b"no sound" if row == 2 else encoded(0.5), "path": None} for row in range(COUNT)]
    table(audio=audio).save_to_disk(tmp_path / "saved")
    utterances = read(tmp_path, str(tmp_path / "saved"))
    assert [one.duration for one in utterances] == [0.5, 0.5, 0.0, 0.5, 0.5, 0.5]
    assert [one.identifier for one in utterances] == [str(row) for row in range(COUNT)]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, ",split=tset", r"datasets:.*saved: there is no split 'tset'; choose one of test, train by ',split=…'"),
        ({}, "", r"datasets:.*saved: there are several splits; choose one of test, train by"),
        ({}, ",split=test,text=txt", r"there is no column 'txt'; name one of audio, sentence, .* by ',text=COLUMN'"),
        ({}, ",split=test,audio=accent", r"there is no column 'accent'; name one of audio by ',audio=COLUMN'"),
        ({}, ",split=test,limit=few", r"the option 'limit' is 'few'; write a whole number"),
        ({}, ",split=test,text=snr", r"row 0: 'snr' is 0\.5; name the column of texts by"),
        ({}, ",splt=test", r"there is no option 'splt'; did you mean 'split'\?"),
        ({"audio": [None] * COUNT}, ",split=test", r"row 0: there is no audio in it; filter the row out"),
    ],
)
def test_data_sets_that_cannot_be_read(tmp_path: Path, columns: dict[str, Any], options: str, message: str) -> None:
    made = table(**columns)
    datasets.DatasetDict(test=made, train=made).save_to_disk(tmp_path / "saved")
    with pytest.raises(ManifestError, match=message):
        read(tmp_path, f"datasets:{tmp_path}/saved{options}")


def test_a_data_set_without_audio_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"], "path": ["b"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ManifestError, match=r"saved: there is no column of Audio among text, path; cast the one that holds it\."):
        read(tmp_path, str(tmp_path / "saved"))


def test_a_data_set_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.parquet").write_bytes(b"nothing")
    with pytest.raises(ManifestError, match=r"datasets:.*data: the data set cannot be loaded \(.*\); check its name"):
        read(tmp_path, f"datasets:{tmp_path}/data,split=test")
