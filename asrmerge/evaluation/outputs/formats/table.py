"""CSV and TSV files with a header: a column of ids or audio files, one of transcripts, perhaps one of references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.errors import ManifestError
from asrmerge.evaluation.outputs.joining import Output
from asrmerge.speech.corpora import columns
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import Utterance

_PREDICTION = ("pred_text", "prediction", "predicted", "hypothesis", "hyp", "transcript", "transcription", "text")


class TableFormat:
    """Named by the id, else by the audio file."""

    name = "table"
    options: Mapping[str, str] = {"prediction": "the column of transcripts", "text": "the column of references"}
    fallback = False

    def recognises(self, path: Path) -> bool:
        return path.name.removesuffix(".gz").endswith((".csv", ".tsv"))

    def read(self, source: Source) -> Sequence[Output]:
        rows, place = columns.read_table(source.path), str(source.path)
        header = tuple(rows[0].cells)
        prediction = columns.require(header, source.options.get("prediction"), _PREDICTION, "prediction", place)
        others = [column for column in header if column != prediction]
        given = source.options.get("text")
        text = columns.require(others, given, (), "text", place) if given else columns.pick(others, columns.TEXT)
        identifier, audio = columns.pick(others, columns.IDENTIFIER), columns.pick(others, columns.AUDIO)
        if identifier is None and audio is None:
            raise ManifestError(
                f"{place}: there is no column of ids or audio files among {', '.join(header)}; add one named 'id'."
            )
        speaker = columns.pick(others, columns.SPEAKER)
        outputs = []
        for row in rows:
            file = Path(row.label(audio) or "")
            names = tuple(dict.fromkeys(name for name in (row.label(identifier), file.stem) if name))
            if not names:
                raise ManifestError(f"{row.place}: the row names no utterance; fill in its id.")
            utterance = None
            if text is not None:
                path = source.path.parent / (row.label(audio) or names[0])
                utterance = Utterance(names[0], path, 0.0, row.cells[text].strip(), row.label(speaker))
            outputs.append(Output(row.place, row.cells[prediction].strip(), names, utterance))
        return outputs


format = TableFormat()
