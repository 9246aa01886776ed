"""Merging: methods, recipes, the streaming engine and the live merge."""

from asrmerge.merging.block import Block, Method, Parameters
from asrmerge.merging.engine import merge_tensors, merge_to_folder
from asrmerge.merging.live import LiveMerge
from asrmerge.merging.recipe import Recipe, RecipeExpert
from asrmerge.merging.registry import find_methods, get_method

__all__ = [
    "Block",
    "LiveMerge",
    "Method",
    "Parameters",
    "Recipe",
    "RecipeExpert",
    "find_methods",
    "get_method",
    "merge_tensors",
    "merge_to_folder",
]
