"""JSON lines with ``pred_text``: asrmerge's own, and NeMo's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asrmerge.evaluation.outputs.joining import Output
from asrmerge.speech.corpora.entries import complete
from asrmerge.speech.corpora.formats.nemo import entry_of
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import Line, Utterance, number_identifiers, read_json_lines, unique_identifiers


class JsonLinesFormat:
    """Named by ``id``, else by ``audio_filepath``, numbered where it repeats, as in reading a manifest."""

    name = "nemo"
    options: Mapping[str, str] = {}
    fallback = True

    def recognises(self, path: Path) -> bool:
        return path.name.removesuffix(".gz").endswith((".jsonl", ".json", ".ndjson"))

    def read(self, source: Source) -> Sequence[Output]:
        lines = read_json_lines(source.path)
        files = [Path(line.label("audio_filepath") or "").stem for line in lines]
        names = number_identifiers(unique_identifiers(lines), files)
        return [
            replace(output, names=tuple(dict.fromkeys(name for name in (own, file) if name)))
            for output, own, file in zip(outputs_of(lines, source.path.parent), names, files, strict=True)
        ]


def outputs_of(lines: Sequence[Line], folder: Path) -> list[Output]:
    """The lines' transcripts, and their references where every line has a ``text``; without names."""
    utterances: Sequence[Utterance | None] = [None] * len(lines)
    if all("text" in line.content for line in lines):
        entries = [entry_of(line, folder / (line.label("audio_filepath") or "unnamed"), audio_needed=False) for line in lines]
        entries = [replace(entry, duration=entry.duration or 0.0) for entry in entries]
        utterances = complete(entries, domain=None, training=False, on_progress=None)
    return [
        Output(
            place=line.place,
            prediction=line.string("pred_text"),
            names=(),
            utterance=utterance,
            silent=line.content.get("silent") is True,
            error=line.label("error"),
        )
        for line, utterance in zip(lines, utterances, strict=True)
    ]


format = JsonLinesFormat()
