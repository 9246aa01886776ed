"""Merge methods by name: the files of ``asrmerge.merging.methods`` and the entry points ``asrmerge.methods``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from asrmerge.errors import ConfigError
from asrmerge.merging import methods as package
from asrmerge.merging.block import Method
from asrmerge.validation import suggest

ENTRY_POINTS = "asrmerge.methods"


def find_methods() -> dict[str, Method]:
    """Every method by name, sorted.

    Raises:
        ConfigError: an installed plugin cannot be loaded, is no method, or takes a name that is in use.
    """
    found = _own_methods()
    for point in entry_points(group=ENTRY_POINTS):
        place = f"the plugin {point.value} (entry point {ENTRY_POINTS}: {point.name})"
        try:
            method = point.load()
        except Exception as error:  # a plugin's import can raise anything
            raise ConfigError(f"{place} cannot be imported ({error!r}): repair or uninstall it.") from error
        if isinstance(method, type) or not isinstance(method, Method):
            raise ConfigError(f"{place} must be an object with name, needs_base, parameters and merge: repair or uninstall it.")
        if method.name in found:
            raise ConfigError(f"{place} is named {method.name}, which is in use: rename or uninstall it.")
        found[method.name] = method
    return dict(sorted(found.items()))


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    own = _own_methods()
    if name in own:  # reading the installed packages' entry points is slow, and a search asks for every candidate
        return own[name]
    methods = find_methods()
    if name not in methods:
        raise ConfigError(f"unknown merge method '{name}'; {suggest(name, methods)}.")
    return methods[name]


def _own_methods() -> dict[str, Method]:
    # Files that start with an underscore are helpers. Python keeps imported modules, so this is cheap after the first time.
    names = [module.name for module in iter_modules(package.__path__) if not module.name.startswith("_")]
    methods: list[Method] = [import_module(f"{package.__name__}.{name}").method for name in names]
    return {method.name: method for method in methods}
