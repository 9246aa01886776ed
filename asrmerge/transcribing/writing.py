"""Transcripts to standard output, one file, or a folder with a file per recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from asrmerge.errors import ConfigError
from asrmerge.files import atomic_file, write_text
from asrmerge.speech.manifest import Utterance
from asrmerge.transcribing.registry import Format
from asrmerge.transcribing.transcript import Transcript

Write = Callable[[Transcript], None]


@contextmanager
def transcript_output(
    output: Path | None, format: Format, recordings: Sequence[Utterance], show: Callable[[str], None]
) -> Iterator[Write]:
    """A function that takes the transcripts of ``recordings`` in order.

    Without ``output`` each is shown at once. A folder (one that exists, or a name without ending) gets a file per recording that
    could be read, named after its identifier, as it is finished. A file takes its place when all are written, and stays as it
    was if that fails.

    Raises:
        ConfigError: the format has a file per recording and there are several, or two recordings would get one file.
    """
    if output is not None and (output.is_dir() or not output.suffix):
        yield _into_folder(output, format, recordings)
        return
    if format.one_recording and len(recordings) > 1:
        raise ConfigError(
            f"{format.name} holds one recording and there are {len(recordings)}; give a folder with --output for a file of each."
        )
    if output is None:
        yield lambda transcript: show(format.render(transcript, Path.cwd()))
    else:
        with atomic_file(output) as stream:
            yield lambda transcript: _discard(stream.write(format.render(transcript, output.parent).encode()))


def _into_folder(folder: Path, format: Format, recordings: Iterable[Utterance]) -> Write:
    def file(recording: Utterance) -> Path:
        return folder / (recording.identifier.replace("/", "_") + format.suffix)

    owners: dict[Path, str] = {}
    for recording in recordings:
        other = owners.setdefault(file(recording), recording.identifier)
        if other != recording.identifier:
            raise ConfigError(f"'{recording.identifier}' and '{other}' would both be written to {file(recording)}; rename one.")

    def write(transcript: Transcript) -> None:
        if transcript.error is None:
            write_text(file(transcript.recording), format.render(transcript, folder))

    return write


def _discard(result: object) -> None: ...
