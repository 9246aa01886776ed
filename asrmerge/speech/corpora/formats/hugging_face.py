"""Data sets of the ``datasets`` library with an Audio column: of the hub, streamed or not, saved to disk, or a folder it loads.

Audio is not decoded by it, which takes torchcodec, but kept as files named by the hash of their bytes. What has been kept of a
data set is listed beside them, so that a stream is read once, and one that broke off goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from asrmerge import __version__
from asrmerge.errors import ManifestError
from asrmerge.files import atomic_file, hash_content
from asrmerge.speech.corpora import columns
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import Line, json_line, read_json_lines

_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes


class DatasetsFormat:
    """A split of a data set. Ids that repeat, as those of sentences that several people read, are numbered."""

    name = "datasets"
    options: Mapping[str, str] = {
        "config": "the data set's configuration",
        "split": "the split, such as test or test[:100]; may be left out where there is one",
        "revision": "branch, tag or commit of the data set",
        "streaming": "read it without a copy of the whole",
        "limit": "this many utterances from the start",
        "audio": "the column of audio",
        "text": "the column of texts",
    }
    fallback = False

    def recognises(self, path: Path) -> bool:
        return any((path / name).is_file() for name in _SAVED)

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        place = f"datasets:{source.place}"
        table = _open(source, place)
        index = cache / "datasets" / f"{table.key}.jsonl"
        lines = read_json_lines(index) if index.is_file() else []
        if not lines or not all((cache / "datasets" / line.string("audio_filepath")).is_file() for line in lines):
            _keep(table, index, place, on_progress)
            lines = read_json_lines(index)
        return [_entry(line, index.parent, f"{place}, row {row}") for row, line in enumerate(lines)]


@dataclass(frozen=True)
class _Table:
    """A split as loaded, its columns by what they mean, and the key that changes when its content does."""

    rows: Any
    key: str
    total: int
    audio: str
    text: str
    identifier: str | None
    speaker: str | None
    labels: Mapping[str, Any]  # columns of class numbers: the feature that names them


def _open(source: Source, place: str) -> _Table:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        remedy = "install it (pip install 'asrmerge[datasets]')"
        raise ManifestError(f"{place}: reading it takes the library 'datasets'; {remedy}.") from error
    limit = source.options.get("limit", "0")
    if not limit.isdigit():
        raise ManifestError(f"{place}: the option 'limit' is '{limit}'; write a whole number.")
    rows, key = _load(datasets, source, place)
    features = rows.features
    if features is None:
        raise ManifestError(f"{place}: the data set does not say what its columns hold; load it without streaming.")
    audio_columns = [name for name, feature in features.items() if isinstance(feature, datasets.Audio)]
    names = list(features)
    if not audio_columns:
        raise ManifestError(f"{place}: there is no column of Audio among {', '.join(names)}; cast the one that holds it.")
    audio = columns.require(audio_columns, source.options.get("audio"), (*columns.AUDIO, audio_columns[0]), "audio", place)
    text = columns.require(names, source.options.get("text"), columns.TEXT, "text", place)
    scalars = [name for name, feature in features.items() if isinstance(feature, datasets.Value | datasets.ClassLabel)]
    rows = rows.select_columns([audio, *scalars]).cast_column(audio, datasets.Audio(decode=False))
    if int(limit):
        rows = rows.take(int(limit))
    return _Table(
        rows=rows,
        key=hash_content([key, audio, text, limit, __version__])[:32],
        total=len(rows) if hasattr(rows, "__len__") else 0,
        audio=audio,
        text=text,
        identifier=columns.pick(scalars, columns.IDENTIFIER),
        speaker=columns.pick(scalars, columns.SPEAKER),
        labels={name: features[name] for name in scalars if isinstance(features[name], datasets.ClassLabel)},
    )


def _load(datasets: Any, source: Source, place: str) -> tuple[Any, Any]:
    """The split that is asked for, and a key that is another when its content is."""
    split, config, revision = (source.options.get(name) for name in ("split", "config", "revision"))
    try:
        if any((source.path / name).is_file() for name in _SAVED):
            saved = datasets.load_from_disk(str(source.path))
            rows = saved[_one_split(list(saved), split, place)] if isinstance(saved, datasets.DatasetDict) else saved
            return rows, rows._fingerprint
        name = str(source.path) if source.path.exists() else source.place
        split = split or _one_split(datasets.get_dataset_split_names(name, config, revision=revision), None, place)
        if source.flag("streaming"):
            key = [name, config, split, _commit(name, revision)]
            return datasets.load_dataset(name, config, split=split, revision=revision, streaming=True), key
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
        return rows, rows._fingerprint
    except ManifestError:
        raise
    except Exception as error:  # the library, the network and a data set's own code can raise anything
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ManifestError(
            f"{place}: the data set cannot be loaded ({reason}); check its name, configuration and split."
        ) from error


def _commit(name: str, revision: str | None) -> Any:
    """What a stream's content depends on: the hub's commit, or the files of a folder."""
    folder = Path(name)
    if folder.exists():
        return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(folder.rglob("*")) if path.is_file()]
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name, revision=revision).sha


def _one_split(splits: Sequence[str], wanted: str | None, place: str) -> str:
    if wanted in splits or (wanted is None and len(splits) == 1):
        return wanted or splits[0]
    fault = f"there is no split '{wanted}'" if wanted else "there are several splits"
    raise ManifestError(f"{place}: {fault}; choose one of {', '.join(splits)} by ',split=…'.")


def _keep(table: _Table, index: Path, place: str, on_progress: OnProgress | None) -> None:
    """Write the audio as files and their list to ``index``, going on where a call that broke off left ``<index>.partial``."""
    index.parent.mkdir(parents=True, exist_ok=True)
    partial = index.with_name(f"{index.name}.partial")
    whole = _whole_lines(partial, index.parent)
    with partial.open("ab") as stream:
        stream.truncate(sum(len(line) for line in whole))
        for done, row in enumerate(_rows(table, len(whole), place), start=len(whole) + 1):
            stream.write(json_line(_record(row, table, index.parent, f"{place}, row {done - 1}")).encode())
            stream.flush()
            if on_progress:
                on_progress(done, table.total)
        os.fsync(stream.fileno())
    if not partial.stat().st_size:
        raise ManifestError(f"{place}: the split holds no utterance; choose another.")
    partial.replace(index)


def _rows(table: _Table, first: int, place: str) -> Iterator[Mapping[str, Any]]:
    """The rows from the index ``first`` on."""
    rows = iter(table.rows.skip(first) if first else table.rows)
    for number in count(first):
        try:
            row: Mapping[str, Any] = next(rows)
        except StopIteration:
            return
        except Exception as error:  # the network, or a damaged file of the data set
            raise ManifestError(
                f"{place}, row {number}: reading broke off ({error}); try again, it goes on from there."
            ) from error
        yield row


def _whole_lines(partial: Path, folder: Path) -> list[bytes]:
    """The lines of a broken-off list up to the first that is torn, or whose audio is gone."""
    if not partial.is_file():
        return []
    kept = []
    for line in partial.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or not (folder / json.loads(line)["audio_filepath"]).is_file():
            break
        kept.append(line)
    return kept


def _record(row: Mapping[str, Any], table: _Table, folder: Path, place: str) -> dict[str, Any]:
    text = row[table.text]
    if not isinstance(text, str):
        raise ManifestError(f"{place}: '{table.text}' is {text!r}; name the column of texts by ',text=COLUMN'.")
    audio, name = _audio_file(row[table.audio], folder, place)
    used = {table.audio, table.text, table.identifier, table.speaker}
    cells = {column: _named(value, table.labels.get(column)) for column, value in row.items() if column != table.audio}
    return {
        "audio_filepath": os.path.relpath(audio, folder) if audio.is_relative_to(folder) else str(audio),
        "name": cells.get(table.identifier or "") or name,
        "text": text,
        "speaker": cells.get(table.speaker or ""),
        "fields": {column: value for column, value in cells.items() if column not in used and value is not None},
    }


def _named(value: Any, label: Any) -> str | None:
    """A cell as text; a class by its name."""
    if value is None or not isinstance(value, str | int | float):
        return None
    if label is not None and isinstance(value, int):
        return str(label.int2str(value)) if value >= 0 else None
    return value if isinstance(value, str) else json.dumps(value)


def _audio_file(audio: Any, folder: Path, place: str) -> tuple[Path, str | None]:
    """The file of a cell of the Audio column, written if it isn't there, and what it was called."""
    path, content = (audio.get("path"), audio.get("bytes")) if isinstance(audio, dict) else (None, None)
    name = Path(path or "")
    if content is None and path is None:
        raise ManifestError(f"{place}: there is no audio in it; filter the row out.")
    if content is None and name.is_file():
        return name.absolute(), name.stem
    content = content if content is not None else _fetch(str(path), place)
    digest = hashlib.sha256(content).hexdigest()
    file = folder / "audio" / digest[:2] / (digest + name.suffix.lower())
    if not file.is_file():
        with atomic_file(file) as stream:
            stream.write(content)
    return file, name.stem or None


def _fetch(address: str, place: str) -> bytes:
    """The bytes behind an address of a stream, such as ``zip://a.wav::https://…``."""
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(address, "rb") as stream:
            content: bytes = stream.read()
    except Exception as error:  # any file system, any failure
        raise ManifestError(
            f"{place}: the audio {address} cannot be fetched ({error}); try again, or filter the row out."
        ) from error
    return content


def _entry(line: Line, folder: Path, place: str) -> Entry:
    fields = line.content.get("fields")
    domain = fields.get("domain") if isinstance(fields, dict) else None
    return Entry(
        place=place,
        audio=folder / line.string("audio_filepath"),
        text=line.string("text"),
        name=line.label("name") or place.rpartition(" ")[2],
        speaker=line.label("speaker"),
        domain=domain,
        fields=fields if isinstance(fields, dict) else {},
    )


format = DatasetsFormat()
