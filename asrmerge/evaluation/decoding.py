"""How a set was decoded and how fast: the record beside a file of hypotheses."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from asrmerge.errors import AsrmergeError
from asrmerge.files import write_json
from asrmerge.recognizers.recognizer import DecodingSettings

_LIBRARIES = ("asrmerge", "torch", "transformers")


class DecodingRecord(BaseModel):
    """One model on one set.

    ``processing_seconds`` is the time from samples in memory to texts: features, model and search. It leaves out loading the
    model, and reading and resampling files. ``audio_seconds`` are those of the ``utterances`` that were decoded in that time: all
    that could be read, unless a session was killed between decoding and taking the time.

    Attributes:
        precision: of the computation.
        dtype: of the parameters in memory.
        batch_seconds: of audio that goes through the model together.
        threads: of the processor.
        generation: the family's settings, as ``DecodingSettings`` has them.
        versions: of the libraries that decoded.
        failed: utterances without a transcript.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    family: str
    device: str
    precision: str
    dtype: str
    batch_seconds: float
    threads: int
    generation: dict[str, Any]
    versions: dict[str, str]
    utterances: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    processing_seconds: float = 0.0

    @property
    def rtfx(self) -> float | None:
        """Seconds of audio decoded in a second, the inverse of the real-time factor; ``None`` where nothing was."""
        return self.audio_seconds / self.processing_seconds if self.processing_seconds > 0 else None

    def continues(self, other: DecodingRecord) -> bool:
        """Whether ``other`` decodes in the same way, so that their times add up."""
        measured = {"utterances", "failed", "audio_seconds", "processing_seconds"}
        return self.model_dump(exclude=measured) == other.model_dump(exclude=measured)

    def plus(self, *, utterances: int, failed: int, audio_seconds: float, processing_seconds: float) -> DecodingRecord:
        """The record after more has been decoded."""
        return self.model_copy(
            update={
                "utterances": self.utterances + utterances,
                "failed": self.failed + failed,
                "audio_seconds": self.audio_seconds + audio_seconds,
                "processing_seconds": self.processing_seconds + processing_seconds,
            }
        )

    def write(self, path: Path) -> None:
        """Write the record as JSON, ``rtfx`` included, atomically."""
        write_json(path, {**self.model_dump(mode="json"), "rtfx": self.rtfx})

    @classmethod
    def read(cls, path: Path) -> DecodingRecord:
        """The record in ``path``.

        Raises:
            AsrmergeError: if the file is missing or is not a decoding record.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls.model_validate({key: value for key, value in content.items() if key != "rtfx"})
        except FileNotFoundError as error:
            raise AsrmergeError(f"{path}: there is no such file; transcribe the set first.") from error
        except (ValueError, AttributeError, ValidationError) as error:
            raise AsrmergeError(f"{path}: not a decoding record; transcribe the set again.") from error


def describe(settings: DecodingSettings, *, model: str, batch_seconds: float) -> DecodingRecord:
    """A record of ``model`` before anything is decoded."""
    return DecodingRecord(
        model=model,
        family=settings.family,
        device=settings.device,
        precision=settings.precision,
        dtype=settings.dtype,
        batch_seconds=batch_seconds,
        threads=torch.get_num_threads(),
        generation=json.loads(json.dumps(dict(settings.generation))),
        versions={library: version(library) for library in _LIBRARIES},
    )


def record_path(hypotheses: Path) -> Path:
    """Where the record of a file of hypotheses is: ``legal.decoding.json`` beside ``legal.jsonl``."""
    return hypotheses.with_suffix(".decoding.json")
