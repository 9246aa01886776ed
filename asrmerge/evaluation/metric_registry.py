"""Metrics by name: the files of ``asrmerge.evaluation.metrics`` and the entry points ``asrmerge.metrics``."""

from __future__ import annotations

from asrmerge.evaluation import metrics as package
from asrmerge.evaluation.metric import Metric
from asrmerge.plugins import objects_in, with_plugins

ENTRY_POINTS = "asrmerge.metrics"


def find_metrics() -> dict[str, Metric]:
    """Every metric by name, sorted.

    Raises:
        ConfigError: an installed plugin cannot be loaded, is no metric, or takes a name that is in use.
    """
    parts = "name, title, higher_is_better, counts and value"
    return with_plugins(objects_in(package, "metric"), ENTRY_POINTS, Metric, parts)
