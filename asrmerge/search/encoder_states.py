"""Encoder states that several candidates share, kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

import torch
from torch import Tensor, nn

STATES_BYTES = 2 << 30  # in each process


def module_digest(module: nn.Module) -> str:
    """A digest of a module's parameters: equal for equal bytes, types and order."""
    found = blake2b(digest_size=16)
    for parameter in module.parameters():
        found.update(str(parameter.dtype).encode())
        found.update(parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class EncoderStates:
    """States by encoder and shard, up to ``limit`` bytes; what has not been used for longest goes first."""

    def __init__(self, limit: int = STATES_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[tuple[str, int], Tensor] = OrderedDict()

    def get(self, encoder: str, shard: int, compute: Callable[[], Tensor]) -> Tensor:
        """The states of a shard; computed where they are not kept."""
        key = (encoder, shard)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        states = compute()
        self._kept[key] = states
        self._bytes += states.nbytes
        while self._bytes > self._limit:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.nbytes
        return states
