"""Models put together from layers: which tensors of which model, under which names, with which configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from asrmerge.checkpoints.assembled import AssembledCheckpoint, Part
from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible
from asrmerge.checkpoints.storage import read_json
from asrmerge.errors import ConfigError
from asrmerge.merging.structure import plan_places
from asrmerge.validation import Section

Stack = Literal["encoder", "decoder"]

_GENERATION = "generation_config.json"


class LayerRange(Section):
    """Consecutive layers of one model, ``[first, end]`` without the end as in mergekit; by default all of them."""

    source: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="base or an expert's name; without, these layers of every model"
    )
    layers: tuple[Annotated[int, Field(ge=0)], int] | None = None
    scale: float = Field(default=1.0, description="multiplies every tensor of these layers")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> LayerRange:
        if self.layers is not None and self.layers[0] >= self.layers[1]:
            raise ValueError(f"the layers {list(self.layers)} are none: the end is not counted, so it must be the larger number")
        return self


@dataclass(frozen=True, eq=False)
class TakenLayer:
    """A layer of a model, in the place that it has in a list of such."""

    checkpoint: Checkpoint
    layer: int
    scale: float = 1.0


Layout = Mapping[str, Sequence[TakenLayer]]
"""The layers of the new model, first to last, by stack; a stack that is not listed stays as it is."""


def plan_layout(ranges: Mapping[Stack, Sequence[LayerRange]], models: Mapping[str, Checkpoint], default: str) -> Layout:
    """The layers that the ranges name; ``models`` by the names in the recipe, ``default`` for ranges that name none.

    Raises:
        ConfigError: a range beyond the last layer.
    """
    layout: dict[str, list[TakenLayer]] = {}
    for stack, listed in ranges.items():
        layout[stack] = []
        for one in listed:
            name = one.source or default
            count = len(_dissect(models[name]).layers.get(stack, ()))
            first, end = one.layers or (0, count)
            if count == 0 or end > count:
                has = f"{count} of them, [0, {count}]" if count else f"no {stack}"
                wanted = f"layers {list(one.layers)} of the {stack}" if one.layers else f"the {stack}"
                raise ConfigError(f"recipe: layers: {wanted} cannot be taken from {name}, which has {has}; correct it.")
            layout[stack] += [TakenLayer(models[name], layer, one.scale) for layer in range(first, end)]
    return layout


def assemble(
    layout: Layout,
    labels: Mapping[str, Checkpoint],
    rest: Checkpoint,
    outside: Checkpoint | None = None,
    donor: Checkpoint | None = None,
) -> AssembledCheckpoint:
    """The model of these layers.

    What lies outside of layers goes with its stack: front end, embeddings and positions come from the first layer's model, the
    last norm and the head from the last layer's.

    Args:
        labels: the models by what messages call them.
        rest: where stacks are from that the layout doesn't list.
        outside: where all that lies outside of layers is from instead.
        donor: whose configuration and vocabulary these are; by default, the model that the output vocabulary's weights come from.

    Raises:
        IncompatibleError: models that don't fit together, such as those of different width; the tensor is named.
    """
    models = [rest, *(one.checkpoint for listed in layout.values() for one in listed), *filter(None, (outside, donor))]
    anatomies = {model: _dissect(model) for model in dict.fromkeys(models)}
    stacks = [*anatomies[rest].layers]
    taken = {
        stack: layout.get(stack) or [TakenLayer(rest, number) for number in range(len(anatomies[rest].layers[stack]))]
        for stack in stacks
    }

    def source(stack: str, follows: bool) -> Checkpoint:
        if outside is not None or stack not in layout:
            return outside or rest
        return taken[stack][-1 if follows else 0].checkpoint

    # Whisper's vocabulary is embedded before the decoder; a CTC head follows the encoder.
    donor = donor or (source("decoder", False) if "decoder" in stacks else source("encoder", True))
    fits = {model: _Fit({}, {}) for model in anatomies}
    for stack in stacks:
        for follows in (False, True):
            model = source(stack, follows)
            fits[model].given.update(_outside_parts(anatomies[model], stack, follows))
            fits[model].expected.update(_outside_parts(anatomies[donor], stack, follows))
        for number, one in enumerate(taken[stack]):
            fit = fits[one.checkpoint]
            fit.given.update(_layer_parts(anatomies[one.checkpoint], stack, one.layer, number, one.scale))
            fit.expected.update(_layer_parts(anatomies[donor], stack, 0, number))
    _check_fits(fits, donor, labels)
    parts = {name: part for fit in fits.values() for name, part in fit.given.items()}
    return AssembledCheckpoint.join(donor, rewrite_config(donor.config, layout), parts, "the model put together")


def select_layers(ranges: Mapping[Stack, Sequence[LayerRange]], model: Checkpoint, label: str) -> AssembledCheckpoint:
    """``model`` with these of its own layers.

    Raises:
        ConfigError: as ``plan_layout``.
    """
    return assemble(plan_layout(ranges, {label: model}, label), {label: model}, model)


def rewrite_config(config: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The configuration of a model with so many layers."""
    rewritten = dict(config)
    for stack, layers in layout.items():
        key = f"{stack}_layers" if config.get("model_type") == "whisper" else "num_hidden_layers"
        rewritten[key] = len(layers)
        if stack == "encoder" and "num_hidden_layers" in config:  # Whisper's is a second name of the encoder's
            rewritten["num_hidden_layers"] = len(layers)
    return rewritten


def rewrite_generation(folder: Path, layout: Layout) -> dict[str, str]:
    """The generation settings in ``folder`` where they name decoder layers: those whose attention gives the word timestamps.

    Returns:
        The file's name and its new text; nothing where there is nothing to rewrite.
    """
    if "decoder" not in layout or "alignment_heads" not in (settings := _read_generation(folder)):
        return {}
    heads = [
        [number, head]
        for number, one in enumerate(layout["decoder"])
        for layer, head in _read_generation(one.checkpoint.folder).get("alignment_heads", [])
        if layer == one.layer
    ]
    del settings["alignment_heads"]
    return {_GENERATION: json.dumps(settings | ({"alignment_heads": heads} if heads else {}), indent=2) + "\n"}


def _read_generation(folder: Path) -> dict[str, Any]:
    path = folder / _GENERATION
    return read_json(path) if path.is_file() else {}


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """A model's tensors by where they are.

    Attributes:
        layers: by stack and number: what stands before and after ``stack.layers.number`` → the name.
        outside: the others' names → the stack that they go with, and whether they follow its layers.
    """

    checkpoint: Checkpoint
    layers: Mapping[str, Sequence[Mapping[tuple[str, str], str]]]
    outside: Mapping[str, tuple[str, bool]]


@dataclass(frozen=True, eq=False)
class _Fit:
    """What one model gives, and what the donor has in the same places."""

    given: dict[str, Part]
    expected: dict[str, Part]


def _dissect(checkpoint: Checkpoint) -> _Anatomy:
    places = plan_places({name: checkpoint.shape(name) for name in checkpoint.names}, checkpoint.model_type)
    counts = {place.stack: place.layers for place in places.values() if place.stack is not None and place.layers is not None}
    layers: dict[str, list[dict[tuple[str, str], str]]] = {stack: [{} for _ in range(counts[stack])] for stack in sorted(counts)}
    outside: dict[str, tuple[str, bool]] = {}
    for name, place in places.items():
        # WavLM keeps the positions that all layers share in the first of them.
        if place.stack is not None and place.layer is not None and place.group != "positional":
            before, _, after = name.partition(f"{place.stack}.layers.{place.layer}.")
            layers[place.stack][place.layer][before, after] = name
        else:
            stack = "decoder" if "decoder" in counts and "encoder" not in name.split(".") else "encoder"
            outside[name] = stack, place.stack is None and (place.position == 1.0 or place.role == "head")
    return _Anatomy(checkpoint, {"encoder": [], **layers}, outside)


def _outside_parts(anatomy: _Anatomy, stack: str, follows: bool) -> dict[str, Part]:
    return {name: Part(anatomy.checkpoint, name) for name, where in anatomy.outside.items() if where == (stack, follows)}


def _layer_parts(anatomy: _Anatomy, stack: str, layer: int, number: int, scale: float = 1.0) -> dict[str, Part]:
    """A layer's tensors under the names that they have as layer ``number``."""
    layers = anatomy.layers.get(stack, ())
    tensors = layers[layer] if layer < len(layers) else {}
    return {
        f"{before}{stack}.layers.{number}.{after}": Part(anatomy.checkpoint, name, scale)
        for (before, after), name in tensors.items()
    }


def _check_fits(fits: Mapping[Checkpoint, _Fit], donor: Checkpoint, labels: Mapping[str, Checkpoint]) -> None:
    shown = {checkpoint: label for label, checkpoint in labels.items()}
    for model, fit in fits.items():
        if model is not donor and (fit.given or fit.expected):
            ours = AssembledCheckpoint.join(donor, donor.config, fit.expected, donor.label)
            theirs = AssembledCheckpoint.join(model, model.config, fit.given, model.label)
            check_compatible([ours, theirs], [shown.get(one, one.label) for one in (donor, model)])
