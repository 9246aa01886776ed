"""The recordings that a user names: audio files, folders of them, patterns, manifests."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from asrmerge.errors import AudioError
from asrmerge.speech.corpora.audio_files import list_audio
from asrmerge.speech.corpora.entries import Entry, complete
from asrmerge.speech.manifest import AUDIO_REMEDY, Utterance, read_json_lines

_MANIFESTS = (".jsonl", ".json", ".jsonl.gz")


def find_recordings(arguments: Sequence[str]) -> tuple[Utterance, ...]:
    """The recordings in the order of the arguments; those in a folder, or that a pattern matches, sorted by path.

    A recording without ``id`` is named after its file; where two have the same name, the later ones get ``-2``, ``-3``, … One
    that cannot be read has a duration of 0. ``text`` is empty except where a manifest has it.

    Raises:
        AudioError: an argument is no such file, or there is no audio in the folder.
        ManifestError: a manifest, or a line of it, cannot be used.
    """
    entries = [entry for argument in arguments for entry in _entries(argument)]
    return complete(entries, domain=None, training=False, on_progress=None)


def _entries(argument: str) -> Iterator[Entry]:
    path = Path(argument).expanduser()
    if path.is_dir():
        files = list_audio(path)
    elif path.name.endswith(_MANIFESTS):
        yield from _lines(path)
        return
    elif path.exists() or not glob.has_magic(argument):
        files = [path]
    else:
        names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute patterns)
        files = [file for file in map(Path, names) if file.is_file()]
    if not files:
        raise AudioError(f"{argument}: there is no audio file of this name or in this folder; check it.")
    yield from (Entry(place=str(file), audio=file, text="") for file in files)


def _lines(manifest: Path) -> Iterator[Entry]:
    for line in read_json_lines(manifest):
        start = line.offset()
        yield Entry(
            place=line.place,
            audio=manifest.parent / line.filled("audio_filepath", AUDIO_REMEDY),
            text=line.string("text") if line.content.get("text") is not None else "",
            identifier=line.label("id"),
            # That of a whole file is measured: a wrong one would leave audio out.
            duration=None if start is None else line.known_duration(),
            start=start,
            speaker=line.label("speaker"),
            domain=line.label("domain"),
            fields=line.fields(),
        )
