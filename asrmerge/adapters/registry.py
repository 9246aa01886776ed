"""Methods for LoRA factors by name: the files of ``asrmerge.adapters.methods``."""

from __future__ import annotations

from asrmerge.adapters import methods as package
from asrmerge.adapters.factors import FactorMethod
from asrmerge.errors import ConfigError
from asrmerge.plugins import objects_in
from asrmerge.validation import suggest

DEFAULT_METHOD = "product"


def find_adapter_methods() -> dict[str, FactorMethod]:
    """Every method by name, sorted."""
    return objects_in(package, "method")


def get_adapter_method(name: str) -> FactorMethod:
    """The method of that name.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    methods = find_adapter_methods()
    if name not in methods:
        raise ConfigError(f"unknown adapter method '{name}'; {suggest(name, methods)}.")
    return methods[name]
