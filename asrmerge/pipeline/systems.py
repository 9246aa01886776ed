"""What is evaluated: models that transcribe, and transcripts that some system made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.content import EMBEDDED, resolve_model
from asrmerge.errors import CheckpointError, ConfigError
from asrmerge.evaluation.hypotheses import Hypothesis
from asrmerge.evaluation.outputs import formats, read_outputs
from asrmerge.files import hash_content, hash_file
from asrmerge.speech.corpora.sources import find_formats
from asrmerge.speech.manifest import Utterance

SET = "{set}"  # in a source, stands for the name of every set
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class System:
    """A model by its source, or with ``outputs`` (set → file) the transcripts of one; ``given`` is what the user called it."""

    name: str
    source: str
    given: str
    outputs: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def transcribes(self) -> bool:
        """Whether it is a model."""
        return not self.outputs

    def read(self, sets: Mapping[str, Sequence[Utterance]]) -> dict[str, tuple[Hypothesis, ...]]:
        """Its transcripts by set, in the sets' order.

        Raises:
            ManifestError: a file is missing, or is not of the set.
        """
        return {name: read_outputs(self.outputs[name], utterances) for name, utterances in sets.items()}


def parse_systems(texts: Iterable[str], sets: Sequence[str]) -> tuple[System, ...]:
    """The systems in ``NAME=SOURCE`` texts.

    A source is a checkpoint's folder or hub id, ``embedded:NAME``, a folder of ``asrmerge export``, or transcripts:
    ``[FORMAT:]FILE`` with ``{set}`` for the name of the set (needless for a single one), or a folder with a file per set.

    Raises:
        ConfigError: a text or name cannot be used, or transcripts of a set are missing.
    """
    systems: dict[str, System] = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if not equals or not source:
            raise ConfigError(f"'{text}': write each model as NAME=SOURCE, such as merged=runs/quickstart/merged.")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"the model name '{name}' may hold only letters, digits, '-' and '_'; choose another.")
        if name in systems:
            raise ConfigError(f"two models are called '{name}'; choose another name for one.")
        systems[name] = _system(name, source, sets)
    if not systems:
        raise ConfigError("there is no model to evaluate: give some, each as NAME=SOURCE.")
    return tuple(systems.values())


def check_loadable(system: System) -> None:
    """Find what is wrong with a model before any audio is read.

    Raises:
        CheckpointError, ConfigError: it is missing, incomplete, of an unknown family, or takes a library that is not installed.
    """
    from asrmerge.recognizers.ctranslate2_backend import is_ctranslate2, require_ctranslate2
    from asrmerge.recognizers.recognizer import find_family

    if is_ctranslate2(system.source):
        require_ctranslate2()
        return
    folder = Path(system.source)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{system.source} is an adapter: write it into full weights first, by asrmerge merge with 'output: full'."
        )
    find_family(system.source)
    Checkpoint.open(system.source)


def content_hash(source: str) -> str:
    """SHA-256 of a model's weights."""
    from asrmerge.recognizers.ctranslate2_backend import is_ctranslate2

    if is_ctranslate2(source):
        return hash_content([[file.name, hash_file(file)] for file in sorted(Path(source).iterdir()) if file.is_file()])
    return Checkpoint.open(source).hash()


def _system(name: str, source: str, sets: Sequence[str]) -> System:
    prefix, colon, rest = source.partition(":")
    has_format = bool(colon) and prefix in find_formats(formats)
    path = Path((rest if has_format else source).split(",")[0]).expanduser()
    if SET in source:
        return System(name, source, source, {one: source.replace(SET, one) for one in sets})
    if has_format or path.is_file():
        if len(sets) > 1:
            raise ConfigError(
                f"{name}={source}: there are {len(sets)} sets ({', '.join(sets)}): give a file for each, with {SET} in the path "
                "in place of the set's name."
            )
        return System(name, source, source, {sets[0]: source})
    if path.is_dir() and not source.startswith(EMBEDDED) and not any(map(_marks_model, path.iterdir())):
        return System(name, source, source, {one: str(_file_of(path, one, len(sets), name)) for one in sets})
    return System(name, resolve_model(source), source)


def _marks_model(file: Path) -> bool:
    return file.name in ("config.json", "model.bin", "adapter_config.json") or file.suffix == ".safetensors"


def _file_of(folder: Path, name: str, sets: int, system: str) -> Path:
    """The transcripts of a set in a folder: the one file or folder that is called as the set."""
    found = [
        file for file in sorted(folder.iterdir()) if file.stem == name and not file.name.endswith((".decoding.json", ".key"))
    ]
    if not found and sets == 1:
        return folder
    if len(found) != 1:
        what = (
            "several files are called as the set" if found else "it has no config.json of a model and no transcripts of the set"
        )
        raise ConfigError(f"{system}={folder}: {what} '{name}'; give a checkpoint, or one file of transcripts per set.")
    return found[0]
