"""A folder of audio with texts beside: ``a.wav`` and ``a.txt``, or LibriSpeech's ``SPEAKER-CHAPTER.trans.txt``.

Format: https://www.openslr.org/12
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.corpora.audio_files import list_audio
from asrmerge.speech.corpora.entries import Entry, OnProgress
from asrmerge.speech.corpora.formats.kaldi import read_map
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import read_text


class FolderFormat:
    """Every audio file in the folder and below. Ids are paths without endings; LibriSpeech's are its own, and name speakers."""

    name = "folder"
    options: Mapping[str, str] = {}
    fallback = True

    def recognises(self, path: Path) -> bool:
        return path.is_dir()

    def read(self, source: Source, cache: Path, on_progress: OnProgress | None) -> Sequence[Entry]:
        chapters: dict[Path, dict[str, tuple[str, str]]] = {}
        entries: list[Entry] = []
        without: list[Path] = []
        for audio in list_audio(source.path):
            if audio.parent not in chapters:
                chapters[audio.parent] = _chapter_texts(audio.parent)
            beside = audio.with_suffix(".txt")
            if audio.stem in chapters[audio.parent]:
                entries.append(_of_chapter(audio, *chapters[audio.parent][audio.stem]))
            elif beside.is_file():
                identifier = audio.relative_to(source.path).with_suffix("").as_posix()
                entries.append(Entry(str(audio), audio, " ".join(read_text(beside).split()), identifier))
            else:
                without.append(audio)
        if without:
            raise ManifestError(
                f"{source.path}: {len(without)} of {len(without) + len(entries)} audio files have no text beside them, such as "
                f"{without[0]}; write {without[0].with_suffix('.txt').name} (empty if nothing is said), or take them away."
            )
        return entries


def _chapter_texts(folder: Path) -> dict[str, tuple[str, str]]:
    """Place and text by name of audio file, of the ``.trans.txt`` files in ``folder``."""
    return {name: cell for path in sorted(folder.glob("*.trans.txt")) for name, cell in read_map(path).items()}


def _of_chapter(audio: Path, place: str, text: str) -> Entry:
    speaker = audio.stem.partition("-")[0]
    known = audio.parent.parent.name == speaker  # SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac
    return Entry(place, audio, text, audio.stem, speaker=speaker if known else None)


format = FolderFormat()
