"""Linear layers by oneDNN on processors where PyTorch's own choice is slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

# Below so many multiplications, oneDNN's fixed cost of about ten microseconds is more than it saves (measured).
_FEWEST_MULTIPLICATIONS = 1_500_000


@contextmanager
def fast_linear(model: nn.Module) -> Iterator[None]:
    """Inside the block, without gradient, the linear layers of a float32 model on an x86 processor with AVX-512 use oneDNN.

    PyTorch multiplies float32 matrices with MKL, which leaves AVX-512 unused on AMD's processors: there oneDNN is more than twice
    as fast (measured on Zen 5: 260 against 113 GFLOP/s on a core). Sums are taken in another order, so that the last digits
    differ. Elsewhere, and under autocast, nothing changes.
    """
    # What an enclosing block has changed already is its own to change back.
    plain = (layer for layer in model.modules() if type(layer) is nn.Linear and "forward" not in vars(layer))
    layers = list(plain) if _applies(model) else []
    for layer in layers:
        layer.forward = partial(_linear, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _applies(model: nn.Module) -> bool:
    parameter = next(model.parameters())
    return bool(
        (parameter.device.type, parameter.dtype) == ("cpu", torch.float32)
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _linear(layer: nn.Linear, inputs: Tensor) -> Tensor:
    work = inputs.numel() * layer.out_features
    if work < _FEWEST_MULTIPLICATIONS or torch.is_autocast_enabled("cpu") or torch.is_grad_enabled():
        return nn.functional.linear(inputs, layer.weight, layer.bias)
    output: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, layer.weight, layer.bias, "none", [], "")
    return output
