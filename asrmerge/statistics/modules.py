"""The parts of a model that statistics are taken of: its linear maps and its layers, by name."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize


def linear_maps(model: nn.Module) -> dict[str, nn.Linear | nn.Conv1d]:
    """Linear layers and one-dimensional convolutions by name; weights that two modules share count as the first's.

    Whisper's output projection is its embedding, so it is no map of its own. Convolutions with groups, dilation or another
    padding than so many zeros are left out.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, nn.Linear | nn.Conv1d] = {}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Conv1d)) or parametrize.is_parametrized(module):
            continue
        if isinstance(module, nn.Conv1d) and not _is_plain(module):
            continue
        if first.get(id(module.weight)) == f"{name}.weight":
            found[name] = module
    return found


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of encoder and decoder by name; not those of convolutions around them."""
    return {
        f"{name}.{number}": layer
        for name, module in model.named_modules()
        if name.endswith(("encoder.layers", "decoder.layers")) and isinstance(module, nn.ModuleList)
        for number, layer in enumerate(module)
    }


def remove_weight_norms(model: nn.Module) -> None:
    """Make every weight-normed weight g·v/‖v‖ one plain parameter, so that statistics are of what merges see."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        elif hasattr(module, "weight_g") and hasattr(module, "weight_v"):
            nn.utils.remove_weight_norm(module)


def map_inputs(module: nn.Linear | nn.Conv1d, inputs: Tensor) -> Tensor:
    """What the weight's rows are multiplied with at each output position.

    Shapes: of a linear layer, inputs [batch, positions, inputs], as they are; of a convolution, [batch, inputs, samples] →
    [batch, positions, inputs, kernel], a view, its windows laid out as the weight is (im2col).
    """
    if isinstance(module, nn.Linear):
        return inputs
    padded = nn.functional.pad(inputs, (int(module.padding[0]),) * 2)
    return padded.unfold(2, module.kernel_size[0], module.stride[0]).transpose(1, 2)


def map_outputs(module: nn.Module, outputs: Tensor) -> Tensor:
    """A map's or layer's outputs as [batch, positions, units]."""
    return outputs.transpose(1, 2) if isinstance(module, nn.Conv1d) else outputs


def map_width(module: nn.Linear | nn.Conv1d) -> int:
    """Number of inputs of a map, the one that the bias stands for not counted."""
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels * module.kernel_size[0]


def _is_plain(convolution: nn.Conv1d) -> bool:
    zeros = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return convolution.groups == 1 and convolution.dilation == (1,) and zeros
