"""Manifests of the Open ASR Leaderboard, ``MODEL_…_DATASET_….jsonl``.

Source: https://github.com/huggingface/open_asr_leaderboard, normalizer/eval_utils.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from asrmerge.evaluation.outputs.formats.json_lines import outputs_of
from asrmerge.evaluation.outputs.joining import Output
from asrmerge.speech.corpora.sources import Source
from asrmerge.speech.manifest import read_json_lines

_NAMELESS = re.compile(r"sample_\d+")


class LeaderboardFormat:
    """Named by the audio file; ``sample_0``, … are no names but the order, without what the leaderboard leaves out."""

    name = "leaderboard"
    options: Mapping[str, str] = {}
    fallback = False

    def recognises(self, path: Path) -> bool:
        return path.name.startswith("MODEL_") and "_DATASET_" in path.name

    def read(self, source: Source) -> Sequence[Output]:
        lines = read_json_lines(source.path)
        files = [line.string("audio_filepath") for line in lines]
        return [
            replace(output, names=() if _NAMELESS.fullmatch(file) else tuple(dict.fromkeys((file, Path(file).stem))))
            for output, file in zip(outputs_of(lines, source.path.parent), files, strict=True)
        ]


format = LeaderboardFormat()
