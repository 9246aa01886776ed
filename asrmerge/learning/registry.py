"""Methods that learn a merge from audio by name: the files of ``asrmerge.learning.methods``, each called as its method."""

from __future__ import annotations

from pkgutil import iter_modules

from asrmerge.errors import ConfigError
from asrmerge.learning import methods as package
from asrmerge.learning.method import LearningMethod
from asrmerge.plugins import objects_in
from asrmerge.validation import suggest


def find_learning_methods() -> dict[str, LearningMethod]:
    """Every method by name, sorted."""
    return objects_in(package, "method")


def learning_method_names() -> tuple[str, ...]:
    """Their names, sorted; unlike the methods themselves, at once: those bring the recognisers along."""
    return tuple(sorted(module.name for module in iter_modules(package.__path__) if not module.name.startswith("_")))


def get_learning_method(name: str) -> LearningMethod:
    """The method of that name.

    Raises:
        ConfigError: there is none; the message lists the known ones.
    """
    methods = find_learning_methods()
    if name not in methods:
        raise ConfigError(f"unknown method '{name}' of learning from audio; {suggest(name, methods)}.")
    return methods[name]
