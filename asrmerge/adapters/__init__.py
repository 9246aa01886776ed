"""LoRA adapters: reading, a base with an adapter as a checkpoint, merging factors, writing."""

from asrmerge.adapters.factors import FactorBlock, FactorMethod, Factors
from asrmerge.adapters.materialise import AdaptedCheckpoint, open_adapted
from asrmerge.adapters.merging import MergedAdapter, merge_adapters
from asrmerge.adapters.reading import Adapter, is_adapter
from asrmerge.adapters.registry import find_adapter_methods, get_adapter_method
from asrmerge.adapters.writing import write_adapter, write_full

__all__ = [
    "AdaptedCheckpoint",
    "Adapter",
    "FactorBlock",
    "FactorMethod",
    "Factors",
    "MergedAdapter",
    "find_adapter_methods",
    "get_adapter_method",
    "is_adapter",
    "merge_adapters",
    "open_adapted",
    "write_adapter",
    "write_full",
]
