"""The state in which a model computes: evaluation mode, autocast, the precision that a device is fast in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from asrmerge.errors import OutputError


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards the mode that the model was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Autocast to bfloat16 if ``precision`` says so; else what surrounds it stays as it is."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def best_tokens(logits: Tensor, real: Tensor | None = None) -> Tensor:
    """The token with the highest logit, ``[…]`` of ``[…, vocabulary]``; of equal ones, one of them.

    Args:
        real: where the logits count, ``[…]``: padding may hold anything.

    Raises:
        OutputError: a logit is NaN. Else it would be the highest, and its token would be taken for what was said.
    """
    highest, tokens = logits.max(-1)
    broken = torch.isnan(highest)
    if bool((broken if real is None else broken & real).any()):
        raise OutputError("the model's output is no number (NaN): its weights are broken, or too large for the precision.")
    return tokens


def fast_precision(device: str) -> Literal["float32", "bfloat16"]:
    """bfloat16 where the device has arithmetic for it, else float32: a processor without it is many times slower in bfloat16."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # What torch itself asks to choose its kernels; there is no public name for it.
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return "bfloat16" if kind == "cpu" and asked is not None and asked() else "float32"
