"""Merge methods by name: the files of ``asrmerge.merging.methods`` and the entry points ``asrmerge.methods``."""

from __future__ import annotations

from asrmerge.errors import ConfigError
from asrmerge.merging import methods as package
from asrmerge.merging.block import Method
from asrmerge.plugins import objects_in, with_plugins
from asrmerge.validation import suggest

ENTRY_POINTS = "asrmerge.methods"


def find_methods() -> dict[str, Method]:
    """Every method by name, sorted.

    Raises:
        ConfigError: an installed plugin cannot be loaded, is no method, or takes a name that is in use.
    """
    return with_plugins(objects_in(package, "method"), ENTRY_POINTS, Method, "name, needs_base, parameters and merge")


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    own: dict[str, Method] = objects_in(package, "method")
    if name in own:  # reading the installed packages' entry points is slow, and a search asks for every candidate
        return own[name]
    methods = find_methods()
    if name not in methods:
        raise ConfigError(f"unknown merge method '{name}'; {suggest(name, methods)}.")
    return methods[name]
