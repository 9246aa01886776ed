"""A folder of text files, one an utterance, called by its id or like its audio file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from asrmerge.evaluation.outputs.joining import Output
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import read_text


class TextFolderFormat:
    """Every ``.txt`` file in the folder and below, named by its path there without ending, else by its name."""

    name = "folder"
    options: Mapping[str, str] = {}
    fallback = True

    def recognises(self, path: Path) -> bool:
        return path.is_dir()

    def read(self, source: Source) -> Sequence[Output]:
        outputs = []
        for file in sorted(source.path.rglob("*.txt")):
            names = (file.relative_to(source.path).with_suffix("").as_posix(), file.stem)
            outputs.append(Output(str(file), " ".join(read_text(file).split()), tuple(dict.fromkeys(names))))
        return outputs


format = TextFolderFormat()
