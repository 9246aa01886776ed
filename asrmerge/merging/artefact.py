"""Statistics files: safetensors whose header says which model and audio they are of, and how they were made."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from asrmerge.checkpoints.safetensors_file import SafetensorsReader
from asrmerge.errors import CheckpointError
from asrmerge.statistics.settings import Kind
from asrmerge.validation import Section

_KEY = "statistics"


class Header(Section):
    """What a statistics file is of.

    Attributes:
        kind, variant: what it holds, and how that was estimated (of a Fisher: ``sampled``, ``empirical`` or ``adam``).
        units: of the values, in words.
        model, model_sha256: as the user named the model, and the hash of its weights.
        data_sha256: of the utterances: identifiers, texts, and what is heard.
        key: changes with everything that the values hang on.
        utterances, seconds: that were used.
        skipped: identifiers of utterances that were left out, with the reason.
        seed, draws: of random choices; None where there were none.
        padding_weight: what a position of padding counts beside one of speech; None where it has no part.
        positions: module → the total weight of its positions, which the mean is over.
        unchanged: parameters that the models of the merge have in common, which have no entries.
        shares: module → the one whose inputs it has as well, and under whose name they are stored.
        lacking: module → why it has no entry; of a Fisher, parameter → why it is zero.
        note: what else there is to know.
        asrmerge: version.
    """

    kind: Kind
    variant: str = ""
    units: str
    model: str
    model_sha256: str
    data_sha256: str = ""
    key: str = ""
    utterances: int
    seconds: float = 0.0
    skipped: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    draws: int | None = None
    padding_weight: float | None = None
    positions: dict[str, float] = Field(default_factory=dict)
    unchanged: tuple[str, ...] = ()
    shares: dict[str, str] = Field(default_factory=dict)
    lacking: dict[str, str] = Field(default_factory=dict)
    note: str = ""
    asrmerge: str = ""


def write_statistics(path: Path, tensors: Mapping[str, Tensor], header: Header) -> None:
    """Write a statistics file atomically; the same content gives the same bytes."""
    contiguous = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    write_tensors(path, contiguous, {_KEY: header.model_dump_json()})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, without a second copy of it in memory.

    The same content gives the same bytes, if ``metadata`` has one entry: of several, the library writes any one first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        temporary.chmod(0o644)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)


def read_header(file: SafetensorsReader) -> Header | None:
    """The header; None of a safetensors file that another program wrote.

    Raises:
        CheckpointError: it is there but not understood.
    """
    text = file.metadata.get(_KEY)
    if text is None:
        return None
    try:
        return Header.model_validate(json.loads(text))
    except (ValidationError, ValueError) as error:
        raise CheckpointError(f"{file.path} has a header that cannot be read ({error}): compute the statistics again.") from error
