"""Methods for LoRA factors by name: the files of ``asrmerge.adapters.methods``."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from asrmerge.adapters import methods as package
from asrmerge.adapters.factors import FactorMethod
from asrmerge.errors import ConfigError
from asrmerge.validation import suggest

DEFAULT_METHOD = "product"


def find_adapter_methods() -> dict[str, FactorMethod]:
    """Every method by name, sorted."""
    # Files that start with an underscore are helpers. Python keeps imported modules, so this is cheap after the first time.
    names = [module.name for module in iter_modules(package.__path__) if not module.name.startswith("_")]
    methods: list[FactorMethod] = [import_module(f"{package.__name__}.{name}").method for name in names]
    return {method.name: method for method in sorted(methods, key=lambda method: method.name)}


def get_adapter_method(name: str) -> FactorMethod:
    """The method of that name.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    methods = find_adapter_methods()
    if name not in methods:
        raise ConfigError(f"unknown adapter method '{name}'; {suggest(name, methods)}.")
    return methods[name]
