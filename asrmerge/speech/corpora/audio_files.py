"""Audio files of a folder by name, for corpora whose texts name utterances rather than files."""

from __future__ import annotations

from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.speech.manifest import is_file

SUFFIXES = frozenset(
    "wav flac ogg oga opus mp3 m4a mp4 webm aac wma mka 3gp amr aiff aif au snd sph caf w64".split()  # noqa: SIM905
)


def list_audio(folder: Path) -> list[Path]:
    """The audio files in and below ``folder``, hidden ones left out, sorted.

    Raises:
        ManifestError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: there is no such folder; check the path.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower().removeprefix(".") in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def audio_by_name(folder: Path) -> dict[str, Path]:
    """The audio files in and below ``folder`` by their names without endings.

    Raises:
        ManifestError: if there is no such folder, or two files have the same name.
    """
    found: dict[str, Path] = {}
    for path in list_audio(folder):
        if path.stem in found:
            raise ManifestError(f"{path}: {found[path.stem]} has the same name; rename one, or take it away.")
        found[path.stem] = path
    return found


def existing(name: str, folder: Path) -> Path:
    """A path that a corpus names: absolute, relative to ``folder``, or to the working directory, as its tools take it."""
    beside, here = folder / name, Path(name)
    return here if not is_file(beside) and is_file(here) else beside
