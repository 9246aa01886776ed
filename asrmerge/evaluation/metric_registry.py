"""Metrics by name: the files of ``asrmerge.evaluation.metrics`` and the entry points ``asrmerge.metrics``."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from asrmerge.errors import ConfigError
from asrmerge.evaluation import metrics as package
from asrmerge.evaluation.metric import Metric

ENTRY_POINTS = "asrmerge.metrics"


def find_metrics() -> dict[str, Metric]:
    """Every metric by name, sorted.

    Raises:
        ConfigError: an installed plugin cannot be loaded, is no metric, or takes a name that is in use.
    """
    found = _own_metrics()
    for point in entry_points(group=ENTRY_POINTS):
        place = f"the plugin {point.value} (entry point {ENTRY_POINTS}: {point.name})"
        try:
            metric = point.load()
        except Exception as error:  # a plugin's import can raise anything
            raise ConfigError(f"{place} cannot be imported ({error!r}): repair or uninstall it.") from error
        if isinstance(metric, type) or not isinstance(metric, Metric):
            raise ConfigError(f"{place} must be an object with name, title, higher_is_better, counts and value: repair it.")
        if metric.name in found:
            raise ConfigError(f"{place} is named {metric.name}, which is in use: rename or uninstall it.")
        found[metric.name] = metric
    return dict(sorted(found.items()))


def _own_metrics() -> dict[str, Metric]:
    names = [module.name for module in iter_modules(package.__path__) if not module.name.startswith("_")]
    metrics: list[Metric] = [import_module(f"{package.__name__}.{name}").metric for name in names]
    return {metric.name: metric for metric in metrics}
