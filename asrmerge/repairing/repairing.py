"""From a merged model, its experts and their audio to the folder of a repaired model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asrmerge import __version__
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.checkpoints.storage import read_json
from asrmerge.checkpoints.vocabulary_alignment import aligned
from asrmerge.checkpoints.writing import PROVENANCE_FILE, check_output, check_replaceable, write_checkpoint
from asrmerge.errors import ConfigError, IncompatibleError, ManifestError
from asrmerge.files import hash_content
from asrmerge.learning.audio import DomainAudio, draw, split_audio
from asrmerge.learning.inputs import Inputs
from asrmerge.learning.listening import Listener
from asrmerge.merging.methods._sphere import normalize_weights
from asrmerge.merging.references import open_model
from asrmerge.progress import ProgressView
from asrmerge.repairing.live import Audio, Measured, RepairedMap, repair_model
from asrmerge.repairing.maps import LiveMap, choose_maps, find_maps
from asrmerge.repairing.moments import Moments, interpolate
from asrmerge.repairing.settings import RepairSettings
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.subject import Subject, load_subject
from asrmerge.statistics.watching import Look

_MERGED = "merged"


@dataclass(frozen=True)
class Models:
    """The models by the names that a user gave them, each expert's audio, and its share in the targets."""

    merged: str
    experts: Mapping[str, str]
    corpora: Mapping[str, Sequence[Utterance]]
    shares: Mapping[str, float]
    device: str = "cpu"
    language: str | None = None


@dataclass(frozen=True, eq=False)
class Repair:
    """What became of the model.

    Attributes:
        maps: in the order of the forward pass.
        not_heard: maps that were asked for but never computed by themselves for each utterance, so that they stay.
        tensors: what changed, by the names of a checkpoint; float32.
    """

    maps: tuple[RepairedMap, ...]
    not_heard: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    @property
    def summary(self) -> str:
        """How it went, in one line."""
        units, clamped, alone = (sum(getattr(one, key) for one in self.maps) for key in ("units", "clamped", "left_alone"))
        least, greatest = min(one.least for one in self.maps), max(one.greatest for one in self.maps)
        return (
            f"{len(self.maps)} linear maps, factors from {least:.2f} to {greatest:.2f}; of {units} units {clamped} clamped, "
            f"{alone} left alone"
        )


def choose_models(
    merged: str,
    experts: Mapping[str, str],
    corpora: Mapping[str, Sequence[Utterance]],
    weights: Mapping[str, float],
    *,
    device: str = "cpu",
    language: str | None = None,
) -> Models:
    """The models with shares that add up to 1; experts of weight 0 are left out, where none is given it is 1.

    Raises:
        ConfigError: an expert without audio, audio or a weight without an expert, or weights that are no shares.
    """
    for name in experts:
        if name not in corpora:
            raise ConfigError(f"the expert {name} has no audio: give --audio {name}=CORPUS.")
    for option, given in (("--audio", corpora), ("--weight", weights)):
        for name in given:
            if name not in experts:
                raise ConfigError(f"{option} {name}: there is no expert of that name; name it as one of {', '.join(experts)}.")
    shares = dict(zip(experts, normalize_weights("repair", [weights.get(name, 1.0) for name in experts]), strict=True))
    used = sorted(name for name, share in shares.items() if share > 0)
    return Models(
        merged,
        {name: experts[name] for name in used},
        {name: corpora[name] for name in used},
        {name: shares[name] for name in used},
        device,
        language,
    )


def repair_to_folder(models: Models, output: str | Path, settings: RepairSettings, view: ProgressView) -> Repair:
    """Repair a merged model and write it to a folder that transformers loads, with ``merge_provenance.json`` in it.

    ``output`` stays as it was on any failure.

    Raises:
        ConfigError: settings that fit no map, or an ``output`` that is or holds one of the models.
        CheckpointError: a model is missing or corrupt, or ``output`` is something other than a checkpoint.
        IncompatibleError: models of different architectures.
        ManifestError, AudioError: audio that cannot be used.
        StatisticsError: a model computes NaN or infinity.
    """
    output = Path(output)
    checkpoint = open_model(models.merged)
    experts = {name: open_model(source) for name, source in models.experts.items()}
    check_output(output, [one.folder for one in (checkpoint, *experts.values())])
    check_replaceable(output)
    labels = [_MERGED, *experts]
    check_compatible(aligned([checkpoint, *experts.values()], labels, has_base=False), labels)
    subject = load_subject(models.merged, device=models.device, language=models.language)
    chosen = choose_maps(find_maps(subject.recognizer.model, checkpoint.model_type), settings)
    _check_shapes(chosen, checkpoint, experts)
    domains = _domains(models, settings, subject.recognizer.window_seconds)
    _check_texts(chosen, domains)
    audio = {name: draw(domain.utterances, settings.utterances, settings.seed) for name, domain in domains.items()}
    listener = _listener(subject, [one for heard in audio.values() for one in heard], settings, view)
    measured = Measured(subject.recognizer.model, listener, listener.look(next(iter(audio.values()))[0]))
    heard = {name: one for name, one in chosen.items() if name in measured.look.sequences}
    targets = _targets(models, [*heard], measured.look, audio, settings, view)
    maps, tensors = repair_model(measured, heard, targets, audio, models.shares, settings, view.task("repairing"))
    repair = Repair(tuple(maps), tuple(name for name in chosen if name not in heard), tensors)
    content = _provenance(repair, models, settings, checkpoint, experts) | {
        "audio": {name: _described(domain, audio[name]) for name, domain in domains.items()}
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_checkpoint(output, _tensors(repair, checkpoint), donor=checkpoint, extra_files={PROVENANCE_FILE: text})
    return repair


def _targets(
    models: Models, maps: Sequence[str], look: Look, audio: Audio, settings: RepairSettings, view: ProgressView
) -> dict[str, Moments]:
    """By map, the interpolated moments of the experts, each on its own domain's audio; one model is in memory at a time."""
    found: dict[str, dict[str, Moments]] = {}
    for number, (name, source) in enumerate(models.experts.items()):
        subject = load_subject(source, device=models.device, language=models.language)
        listener = _listener(subject, audio[name], settings, view)
        found[name] = Measured(subject.recognizer.model, listener, look).moments(maps, audio[name])
        view.update("hearing experts", number + 1, len(models.experts))
    return {one: interpolate({name: moments[one] for name, moments in found.items()}, models.shares) for one in maps}


def _listener(subject: Subject, audio: Sequence[Utterance], settings: RepairSettings, view: ProgressView) -> Listener:
    inputs = Inputs(subject.recognizer, encoder_is_shared=False)
    inputs.read(audio, view.task(f"reading audio for {subject.label}"))
    return Listener(subject.recognizer, inputs, padding_every=settings.padding_every)


def _domains(models: Models, settings: RepairSettings, window: float | None) -> dict[str, DomainAudio]:
    return {
        name: split_audio(name, corpus, share=0.0, seed=settings.seed, window=window) for name, corpus in models.corpora.items()
    }


def _check_shapes(chosen: Mapping[str, LiveMap], merged: Checkpoint, experts: Mapping[str, Checkpoint]) -> None:
    """CTC heads may have vocabularies of their own."""
    for one in chosen.values():
        member = one.unit.members[-1]
        for name, expert in experts.items():
            if expert.shape(member) != merged.shape(member):
                raise IncompatibleError(
                    f"{member} has shape {list(merged.shape(member))} in {merged.folder} and {list(expert.shape(member))} in "
                    f"{name} ({expert.folder}): leave the group '{one.place.group}' out of the repair."
                )


def _check_texts(chosen: Mapping[str, LiveMap], domains: Mapping[str, DomainAudio]) -> None:
    if not any(one.place.stack == "decoder" for one in chosen.values()):
        return
    for name, domain in domains.items():
        if not domain.has_texts:
            raise ManifestError(
                f"the audio of {name} has no texts, and a decoder must be fed what is said: add them, or repair --group encoder."
            )


def _tensors(repair: Repair, checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    for name in checkpoint.names:
        found = repair.tensors.get(name)
        yield name, checkpoint.read(name) if found is None else found


def _provenance(
    repair: Repair, models: Models, settings: RepairSettings, checkpoint: Checkpoint, experts: Mapping[str, Checkpoint]
) -> dict[str, Any]:
    earlier = checkpoint.folder / PROVENANCE_FILE
    return {
        "asrmerge": __version__,
        "method": "repair",
        "parameters": settings.model_dump(mode="json"),
        "model": {
            "model": models.merged,
            "sha256": checkpoint.hash(),
            "provenance": read_json(earlier) if earlier.is_file() else None,
        },
        "experts": [
            {"name": name, "model": models.experts[name], "weight": models.shares[name], "sha256": expert.hash()}
            for name, expert in experts.items()
        ],
        "maps": [asdict(one) for one in repair.maps],
        "not_heard": list(repair.not_heard),
    }


def _described(domain: DomainAudio, heard: Sequence[Utterance]) -> dict[str, Any]:
    return {
        "utterances": len(heard),
        "seconds": round(sum(one.duration for one in heard), 3),
        "sha256": hash_content([[one.identifier, one.text, one.start, one.duration] for one in heard]),
        "left_out": domain.left_out,
    }
