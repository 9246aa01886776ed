"""Telling collectors of a model's forward and backward passes: hooks, which positions count, which inputs are shared."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from asrmerge.recognizers.recognizer import DifferentiableRecognizer
from asrmerge.statistics.collectors import Collector
from asrmerge.statistics.modules import linear_maps, map_outputs

Batch = Mapping[str, Tensor]


@dataclass
class Watch:
    """One forward pass: the batch that it is of, and, where gradients will be asked for, what modules were given and gave."""

    batch: Batch
    samples: Sequence[int]
    outputs: dict[str, Tensor] = field(default_factory=dict)
    chosen: dict[str, Tensor] = field(default_factory=dict)
    calls: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)


class Watcher:
    """Hooks on all modules that the collectors watch; outside of ``watching`` they do nothing."""

    def __init__(
        self,
        recognizer: DifferentiableRecognizer,
        collectors: Sequence[Collector],
        sequences: Collection[str],
        padding_every: int,
    ) -> None:
        self._recognizer, self._collectors, self._padding_every = recognizer, collectors, padding_every
        self._watch: Watch | None = None
        self._watched = {name for collector in collectors for name in collector.watched}
        self._differentiated = {name for collector in collectors for name in collector.differentiated}
        modules = {
            name: one for collector in collectors for name, one in {**collector.watched, **collector.differentiated}.items()
        }
        self._handles = [
            module.register_forward_hook(self._hook(name, module)) for name, module in modules.items() if name in sequences
        ]

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def watching(self, batch: Batch, samples: Sequence[int]) -> Iterator[Watch]:
        """Tell the collectors of what is computed inside the block, of one batch."""
        self._watch = Watch(batch, samples)
        try:
            yield self._watch
        finally:
            self._watch = None

    def gradients(self, watch: Watch, loss: Tensor, parameters: Mapping[str, nn.Parameter], *, again: bool) -> bool:
        """Tell the collectors of the gradients of one utterance's loss; whether they were finite, else nothing is told.

        Args:
            again: more gradients of the same forward pass will be asked for.
        """
        outputs = {name: value for name, value in watch.outputs.items() if value.requires_grad}
        given = torch.autograd.grad(loss, [*parameters.values(), *outputs.values()], retain_graph=again, allow_unused=True)
        found = dict(zip([*parameters, *(f"output {name}" for name in outputs)], given, strict=True))
        # A norm is finite where all squares are, and what is summed are squares.
        norms = [torch.linalg.vector_norm(value) for value in given if value is not None]
        if not bool(torch.isfinite(torch.stack(norms)).all()):
            return False
        of_parameters = {name: value for name in parameters if (value := found[name]) is not None}
        of_outputs = {name: value for name in outputs if (value := found[f"output {name}"]) is not None}
        for collector in self._collectors:
            collector.on_gradients(of_parameters, of_outputs, watch.chosen)
        return True

    @torch.no_grad()
    def tell_calls(self, watch: Watch) -> None:
        """Tell the collectors of the calls of a forward pass whose gradients were fine."""
        for name, inputs, output in watch.calls:
            self._tell(name, inputs, output, watch.chosen[name])

    def _tell(self, name: str, inputs: Tensor, output: Tensor, chosen: Tensor) -> None:
        for collector in self._collectors:
            if name in collector.watched:
                collector.on_call(name, inputs, output, chosen)

    def _hook(self, name: str, module: nn.Module) -> Any:
        tell = self._tell

        def hook(_: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            watch = self._watch
            if watch is None:
                return
            output = _first(outputs)
            if name not in watch.chosen:
                watch.chosen[name] = self._chosen(name, map_outputs(module, output), watch)
            if not torch.is_grad_enabled():
                tell(name, inputs[0], output, watch.chosen[name])
                return
            # They are kept for the backward pass anyway; told of only once that has gone well.
            if name in self._differentiated:
                watch.outputs[name] = output
            if name in self._watched:
                watch.calls.append((name, inputs[0], output))

        return hook

    def _chosen(self, name: str, outputs: Tensor, watch: Watch) -> Tensor:
        """Which positions count [rows]: those of speech, and where the model hears the padding, some of it."""
        real = self._recognizer.real_positions(name, watch.batch, watch.samples)[:, None]
        positions = torch.arange(outputs.shape[1], device=outputs.device)[None]
        chosen = positions < real
        if self._padding_every and self._recognizer.hears_padding(name):
            chosen = chosen | ((positions - real) % self._padding_every == self._padding_every // 2)
        return chosen.flatten().nonzero()[:, 0]


@dataclass(frozen=True)
class Look:
    """What one forward pass shows of a model.

    Attributes:
        order: modules by name, as they are first called.
        sequences: those that compute a sequence for each utterance: [batch, positions, units], of convolutions
            [batch, units, positions]; not, say, positions that all utterances of a batch share.
        shares: linear layers that are given the same inputs as one before them, and which. In Whisper q, k and v of a layer, and
            k and v of the attention to the encoder in all layers of the decoder.
    """

    order: tuple[str, ...]
    sequences: frozenset[str]
    shares: Mapping[str, str]

    def place(self, module: str) -> int:
        """Where in the order a module is; what is never called comes last."""
        return self.order.index(module) if module in self.order else len(self.order)


def look_at(recognizer: DifferentiableRecognizer, batch: Batch) -> Look:
    """Look at one forward pass, of a batch of at least two utterances."""
    rows, maps = len(batch["labels"]), linear_maps(recognizer.model)
    order: dict[str, None] = {}
    sequences: set[str] = set()
    shares: dict[str, str] = {}
    first: dict[int, str] = {}
    kept: list[Tensor] = []  # so that no other tensor takes the identity of one seen before

    def begins(name: str) -> Any:
        return lambda module, inputs: order.setdefault(name)

    def ends(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            output = _first(outputs)
            if not inputs or not isinstance(output, Tensor) or output.dim() != 3 or len(output) != rows:
                return
            sequences.add(name)
            if name not in maps or not isinstance(module, nn.Linear):
                return
            if id(inputs[0]) in first:
                shares.setdefault(name, first[id(inputs[0])])
            else:
                first[id(inputs[0])] = name
                kept.append(inputs[0])

        return hook

    modules = dict(recognizer.model.named_modules())
    handles = [module.register_forward_pre_hook(begins(name)) for name, module in modules.items()]
    handles += [module.register_forward_hook(ends(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            recognizer.logits(batch)
    finally:
        for handle in handles:
            handle.remove()
    return Look(tuple(order), frozenset(sequences), shares)


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple) else outputs
