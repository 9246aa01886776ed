"""From a recipe with audio to a merged folder: coefficients are learnt and merged by a plain recipe, or weights are learnt."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from asrmerge import __version__
from asrmerge.adapters.materialise import AdaptedCheckpoint
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.checkpoints.writing import check_output, check_replaceable
from asrmerge.errors import ManifestError
from asrmerge.evaluation.normalizers import normalizer
from asrmerge.files import atomic_folder, hash_content, write_json
from asrmerge.learning.audio import DomainAudio, split_audio
from asrmerge.learning.method import Learned, LearnedWeights, LearningParameters
from asrmerge.learning.recipe import LearningRecipe
from asrmerge.learning.registry import get_learning_method
from asrmerge.learning.session import Session
from asrmerge.learning.writing import write_weights
from asrmerge.merging.engine import merge_to_folder
from asrmerge.merging.references import open_model
from asrmerge.progress import ProgressView
from asrmerge.recognizers.computing import fast_precision
from asrmerge.recognizers.recognizer import DifferentiableRecognizer, load_recognizer
from asrmerge.recognizers.transcriber import find_device
from asrmerge.speech.corpora import read_corpus
from asrmerge.speech.manifest import Utterance
from asrmerge.statistics.subject import differentiable, put_weights

LEARNED_FILE = "learned.json"
logger = logging.getLogger(__name__)


def merge_learned_to_folder(
    recipe: LearningRecipe, output: str | Path, *, view: ProgressView, workers: int | None = None
) -> Learned | LearnedWeights:
    """Learn, and merge into a folder that transformers loads.

    It holds ``merge_recipe.yaml``, the plain recipe that merges with what was learnt (none where weights were), then
    ``merge_provenance.json``, and ``learned.json``: recipe, audio, coefficients and curves, or stages, seconds. ``output`` stays
    as it was on any failure.

    Args:
        workers: threads of the merge.

    Raises:
        ConfigError: ``output`` is or holds one of the models, or a setting that cannot be used.
        CheckpointError: a model is missing or corrupt, or ``output`` is something other than a checkpoint.
        IncompatibleError: models that do not fit together.
        ManifestError, AudioError: audio that cannot be learnt from.
        LearningError: the loss, or what a model computes, is NaN or infinite.
    """
    output = Path(output)
    began = time.monotonic()
    base = open_model(recipe.base)
    experts = {expert.name: open_model(expert.model) for expert in recipe.experts}
    check_output(output, [checkpoint.folder for checkpoint in (base, *experts.values())])
    check_replaceable(output)
    check_compatible([base, *experts.values()], ["base", *experts])
    parameters = recipe.method_parameters()
    if isinstance(parameters, LearningParameters):
        normalizer(parameters.normalizer)
    corpora = _read_corpora(recipe, view)
    learned, domains = _learn(recipe, base, experts, corpora, view)
    content = _content(recipe, learned, domains) | {"seconds": round(time.monotonic() - began, 1)}
    with atomic_folder(output) as temporary:
        merged = temporary / "checkpoint"
        if isinstance(learned, LearnedWeights):
            write_weights(recipe, learned, base, experts, merged)
        else:
            merge_to_folder(recipe.plain(learned.coefficients), merged, workers=workers, on_progress=view.task("merging"))
        for file in merged.iterdir():
            file.rename(temporary / file.name)
        merged.rmdir()
        write_json(temporary / LEARNED_FILE, content)
    return learned


def _read_corpora(recipe: LearningRecipe, view: ProgressView) -> dict[str, Sequence[Utterance]]:
    """Each domain's audio, the experts' first.

    Raises:
        ManifestError: an empty corpus, or one without texts that the method cannot do without.
        AudioError: as ``read_corpus``.
    """
    texts = get_learning_method(recipe.method).needs_texts
    cache = Path(recipe.cache).expanduser() / "corpora"
    places = {expert.name: expert.audio for expert in recipe.experts} | recipe.audio
    corpora: dict[str, Sequence[Utterance]] = {}
    for name, place in places.items():
        corpora[name] = read_corpus(place, domain=name, cache=cache, on_progress=view.task(f"reading {name}"))
        if texts and not any(one.text.strip() for one in corpora[name]):
            raise ManifestError(
                f"{place}: no utterance has a text, which {recipe.method} learns from; add texts, or use adamerging."
            )
    return corpora


def _learn(
    recipe: LearningRecipe,
    base: Checkpoint,
    experts: Mapping[str, Checkpoint],
    corpora: Mapping[str, Sequence[Utterance]],
    view: ProgressView,
) -> tuple[Learned | LearnedWeights, list[DomainAudio]]:
    recognizer = _load(recipe, base)
    window = recognizer.window_seconds
    share = recipe.held_out if recipe.holds_out else 0.0
    domains = [split_audio(name, corpus, share=share, seed=recipe.seed, window=window) for name, corpus in corpora.items()]
    session = Session(
        recognizer,
        {name: _state(checkpoint) for name, checkpoint in experts.items()},
        domains,
        start={expert.name: expert.weight for expert in recipe.experts if expert.weight is not None},
        seed=recipe.seed,
        on_read=view.task("reading audio"),
        on_step=view.task(f"learning ({recipe.method})"),
    )
    learned = get_learning_method(recipe.method).learn(session, recipe.method_parameters())
    logger.info("%s: %s", recipe.method, learned.summary)
    return learned, domains


def _load(recipe: LearningRecipe, base: Checkpoint) -> DifferentiableRecognizer:
    device = find_device(recipe.device)
    precision = fast_precision(device) if recipe.precision == "auto" else recipe.precision
    recognizer = load_recognizer(base.folder, device=device, precision=precision, language=recipe.language)
    if isinstance(base, AdaptedCheckpoint):
        put_weights(recognizer, base)
    return differentiable(recognizer, recipe.base)


def _state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: checkpoint.read(name) for name in checkpoint.names}


def _content(recipe: LearningRecipe, learned: Learned | LearnedWeights, domains: Sequence[DomainAudio]) -> dict[str, Any]:
    common = {
        "asrmerge": __version__,
        "recipe": recipe.model_dump(mode="json", exclude_none=True, exclude=set() if recipe.holds_out else {"held_out"})
        | {"parameters": recipe.method_parameters().model_dump(mode="json")},
        "recipe_sha256": recipe.hash(),
        "audio": {domain.name: _described(domain) for domain in domains},
    }
    if isinstance(learned, LearnedWeights):
        return common | {"stages": [asdict(one) for one in learned.stages]}
    return common | {
        "coefficients": learned.coefficients,
        "criterion": learned.criterion,
        "kept_step": learned.kept,
        "loss": learned.losses,
        "held_out": [asdict(look) | {"macro_wer": look.macro_wer, "macro_loss": look.macro_loss} for look in learned.looks],
    }


def _described(domain: DomainAudio) -> dict[str, Any]:
    heard = [[one.identifier, one.text, one.start, one.duration] for one in domain.utterances]
    return {
        "learnt_from": len(domain.train),
        "held_out": len(domain.held_out),
        "seconds": round(sum(one.duration for one in domain.utterances), 3),
        "texts": domain.has_texts,
        "sha256": hash_content(heard),
        "left_out": domain.left_out,
    }
