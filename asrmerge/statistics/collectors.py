"""What adds up one kind of statistics: told of every module's inputs and outputs, and of every utterance's gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from asrmerge.statistics.modules import layers, linear_maps, map_inputs, map_outputs, map_width
from asrmerge.statistics.settings import Kind, StatisticsSettings
from asrmerge.statistics.sums import add_gram, add_product, effective_rank, pick, whole

Modules = Mapping[str, nn.Module]
_NEVER = "it was never computed by itself for each utterance"
_UNCHANGED = "it is the same in all models"


class Collector(Protocol):
    """Sums of one kind. ``sums`` is all of its state: what is kept to go on after a kill, changed in place only."""

    kind: Kind
    units: str
    sums: dict[str, Tensor]
    watched: Modules  # whose calls it is told of
    differentiated: Modules  # whose outputs' gradients it is told of
    lacking: dict[str, str]  # module → why it is left out

    def on_call(self, name: str, inputs: Tensor, outputs: Tensor, chosen: Tensor) -> None:
        """A watched module's call. Shapes: ``chosen`` [rows], the positions that count, ascending, in batch · positions."""

    def on_gradients(self, parameters: Mapping[str, Tensor], outputs: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
        """Gradients of one utterance's summed negative log-likelihood: of parameters, and of ``differentiated`` outputs."""

    def result(self, count: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The tensors of the artefact, and the total weight of positions by module.

        Args:
            count: utterances × draws whose gradients were told of.
        """


class FisherCollector:
    """The diagonal of the Fisher information: squares of per-utterance gradients, then their mean."""

    kind: Kind = "fisher"
    units = "nats² per squared unit of the parameter, the mean over utterances of the squared gradient of log p(text | audio)"

    def __init__(self, model: nn.Module, settings: StatisticsSettings) -> None:
        kept = {name: value for name, value in _trainable(model).items() if name not in settings.unchanged}
        self.sums = {name: torch.zeros_like(value) for name, value in kept.items()}
        self.watched: Modules = {}
        self.differentiated: Modules = {}
        self.lacking = dict.fromkeys(settings.unchanged, _UNCHANGED)

    def on_call(self, name: str, inputs: Tensor, outputs: Tensor, chosen: Tensor) -> None:
        """Nothing: only gradients count."""

    def on_gradients(self, parameters: Mapping[str, Tensor], outputs: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
        """Adds the squares."""
        for name, gradient in parameters.items():
            self.sums[name].addcmul_(gradient, gradient)

    def result(self, count: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The mean over utterances and draws."""
        self.lacking |= {name: "no loss hangs on it" for name, value in self.sums.items() if not bool(value.any())}
        return {name: value / count for name, value in self.sums.items()}, {}


class GramCollector:
    """Gram matrices of the inputs of linear maps, with a one appended; maps of the same inputs share one."""

    kind: Kind = "grams"
    units = "the mean of [x, 1][x, 1]ᵀ over positions, x the inputs of a linear map (of a convolution: its windows, flattened)"

    def __init__(self, model: nn.Module, settings: StatisticsSettings, shares: Mapping[str, str]) -> None:
        maps = linear_maps(model)
        self.lacking = _too_wide({name: map_width(module) for name, module in maps.items()}, settings.widest, "inputs")
        self.lacking |= _unchanged_maps(maps, settings)
        # One is kept for all maps that share it and need it, under the name of the first.
        needed = {shares.get(name, name) for name in maps if name not in self.lacking}
        self.lacking = {name: reason for name, reason in self.lacking.items() if name not in needed}
        self._maps = {name: module for name, module in maps.items() if name in needed}
        self.watched: Modules = self._maps
        self.differentiated: Modules = {}
        self.sums = {
            name: torch.zeros((map_width(module) + 1,) * 2, device=module.weight.device) for name, module in self._maps.items()
        }

    def on_call(self, name: str, inputs: Tensor, outputs: Tensor, chosen: Tensor) -> None:
        """Adds the inputs of the chosen positions."""
        add_gram(self.sums[name], pick(map_inputs(self._maps[name], inputs.detach()), chosen))

    def on_gradients(self, parameters: Mapping[str, Tensor], outputs: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
        """Nothing: only inputs count."""

    def result(self, count: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The means; what was never called has none."""
        weights = {name: float(total[-1, -1]) for name, total in self.sums.items()}
        self.lacking |= {name: _NEVER for name, weight in weights.items() if not weight}
        return {name: whole(self.sums[name]) / weight for name, weight in weights.items() if weight}, weights


class FactorCollector:
    """K-FAC's output factors: of every linear map, the mean of ggᵀ over the gradients of its outputs."""

    kind: Kind = "factors"
    units = "nats² per squared unit of the output, the mean over positions of ggᵀ, g the gradient of log p(text | audio)"

    def __init__(self, model: nn.Module, settings: StatisticsSettings) -> None:
        maps = linear_maps(model)
        widths = {name: module.weight.shape[0] for name, module in maps.items()}
        self.lacking = _too_wide(widths, settings.widest, "outputs") | _unchanged_maps(maps, settings)
        self._maps = {name: module for name, module in maps.items() if name not in self.lacking}
        self.watched: Modules = {}
        self.differentiated: Modules = self._maps
        self.sums = {name: torch.zeros((widths[name],) * 2, device=module.weight.device) for name, module in self._maps.items()}
        self.sums["positions"] = torch.zeros(len(self._maps), dtype=torch.float64)

    def on_call(self, name: str, inputs: Tensor, outputs: Tensor, chosen: Tensor) -> None:
        """Nothing: only gradients count."""

    def on_gradients(self, parameters: Mapping[str, Tensor], outputs: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
        """Adds the gradients at the chosen positions."""
        for index, (name, module) in enumerate(self._maps.items()):
            if name in outputs:
                rows = pick(map_outputs(module, outputs[name]), chosen[name])
                add_product(self.sums[name], rows)
                self.sums["positions"][index] += len(rows)

    def result(self, count: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The means; what no loss hangs on has none."""
        weights = dict(zip(self._maps, self.sums["positions"].tolist(), strict=True))
        self.lacking |= {name: "no loss hangs on it" for name, weight in weights.items() if not weight}
        return {name: whole(self.sums[name]) / weight for name, weight in weights.items() if weight}, weights


class ActivationCollector:
    """Mean and variance of every linear map's and layer's outputs, and the effective rank of every layer's."""

    kind: Kind = "activations"
    units = "mean and variance over positions of a module's outputs; effective rank: exp of the entropy of their spectrum"

    def __init__(self, model: nn.Module, settings: StatisticsSettings) -> None:
        self._layers = layers(model)
        self._maps = linear_maps(model)
        self.watched: Modules = {**self._maps, **self._layers}
        self.differentiated: Modules = {}
        self.lacking: dict[str, str] = {}
        self.sums: dict[str, Tensor] = {}

    def on_call(self, name: str, inputs: Tensor, outputs: Tensor, chosen: Tensor) -> None:
        """Adds the outputs of the chosen positions, in float64: a variance is a small difference of large sums."""
        rows = pick(map_outputs(self.watched[name], outputs.detach()), chosen).double()
        if name in self._layers:
            width = rows.shape[1] + 1
            add_gram(self.sums.setdefault(name, rows.new_zeros(width, width)), rows)
            return
        total = self.sums.setdefault(name, rows.new_zeros(3, rows.shape[1]))
        total[0] += len(rows)
        total[1] += rows.sum(0)
        total[2] += (rows**2).sum(0)

    def on_gradients(self, parameters: Mapping[str, Tensor], outputs: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> None:
        """Nothing: only outputs count."""

    def result(self, count: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """``X.mean``, ``X.variance`` of every module X, and ``X.effective_rank`` of every layer, float32."""
        found: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for name in self.watched:
            total = self.sums.get(name)
            layer = name in self._layers
            weights[name] = 0.0 if total is None else float(total[-1, -1] if layer else total[0, 0])
            if total is None or not weights[name]:
                self.lacking[name] = _NEVER
                continue
            mean, square = (total[:-1, -1], total.diagonal()[:-1]) if layer else (total[1], total[2])
            mean = mean / weights[name]
            found[f"{name}.mean"] = mean.float()
            found[f"{name}.variance"] = (square / weights[name] - mean**2).clamp(min=0).float()
            if layer:
                found[f"{name}.effective_rank"] = torch.tensor(effective_rank(whole(total) / weights[name]))
        return found, weights


def make_collectors(model: nn.Module, settings: StatisticsSettings, shares: Mapping[str, str]) -> list[Collector]:
    """One for each kind that is asked for."""
    makers: dict[Kind, Callable[[], Collector]] = {
        "fisher": lambda: FisherCollector(model, settings),
        "grams": lambda: GramCollector(model, settings, shares),
        "factors": lambda: FactorCollector(model, settings),
        "activations": lambda: ActivationCollector(model, settings),
    }
    return [makers[kind]() for kind in settings.kinds]


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _unchanged_maps(maps: Mapping[str, nn.Linear | nn.Conv1d], settings: StatisticsSettings) -> dict[str, str]:
    """Maps of which neither weight nor bias is changed by any model."""
    return {
        name: _UNCHANGED
        for name, module in maps.items()
        if all(f"{name}.{parameter}" in settings.unchanged for parameter, _ in module.named_parameters(recurse=False))
    }


def _too_wide(widths: Mapping[str, int], most: int, what: str) -> dict[str, str]:
    return {name: f"it has {width} {what}, more than {most}" for name, width in widths.items() if width > most}
