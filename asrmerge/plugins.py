"""What is found by name: one object per file of a package, and what installed packages bring along as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from asrmerge.errors import ConfigError


def objects_in(package: ModuleType, attribute: str) -> dict[str, Any]:
    """The ``attribute`` of every file of ``package``, by its ``name``, sorted; what begins with an underscore is a helper."""
    # Python keeps imported modules, so this is cheap after the first time.
    names = _modules_in(tuple(package.__path__))
    found = [getattr(import_module(f"{package.__name__}.{name}"), attribute) for name in names]
    return {one.name: one for one in sorted(found, key=lambda one: str(one.name))}


@cache
def _modules_in(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Kept, because reading a folder takes a millisecond, and a search asks for methods thousands of times."""
    return tuple(module.name for module in iter_modules(folders) if not module.name.startswith("_"))


def with_plugins(own: Mapping[str, Any], group: str, kind: type[Any], parts: str) -> dict[str, Any]:
    """``own`` and the entry points of ``group``, by name, sorted.

    Args:
        kind: a protocol that can be checked at run time; ``parts`` says in words what it asks for.

    Raises:
        ConfigError: an installed plugin cannot be loaded, is not of that kind, or takes a name that is in use.
    """
    found = dict(own)
    for point in entry_points(group=group):
        place = f"the plugin {point.value} (entry point {group}: {point.name})"
        try:
            plugin = point.load()
        except Exception as error:  # a plugin's import can raise anything
            raise ConfigError(f"{place} cannot be imported ({error!r}): repair or uninstall it.") from error
        if isinstance(plugin, type) or not isinstance(plugin, kind):
            raise ConfigError(f"{place} must be an object with {parts}: repair or uninstall it.")
        if plugin.name in found:
            raise ConfigError(f"{place} is named {plugin.name}, which is in use: rename or uninstall it.")
        found[plugin.name] = plugin
    return dict(sorted(found.items()))
