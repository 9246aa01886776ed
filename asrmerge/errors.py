"""The errors a user can meet: each message names the place and says what to do about it."""

from __future__ import annotations


class AsrmergeError(Exception):
    """Base of every error that asrmerge raises on purpose; the command line shows its text and exits with ``exit_code``."""

    exit_code = 2


class ConfigError(AsrmergeError):
    """A run's configuration, or a domain's, cannot be used."""


class ManifestError(AsrmergeError):
    """A manifest, or one of its lines, cannot be used."""


class AudioError(AsrmergeError):
    """An audio file is missing, unreadable or unusable."""


class CheckpointError(AsrmergeError):
    """A checkpoint is missing, incomplete or corrupt."""


class OutputError(AsrmergeError):
    """What a model computes is no number."""


class IncompatibleError(CheckpointError):
    """Checkpoints that cannot be merged with each other."""


class SynthesisError(AsrmergeError):
    """Speech could not be synthesised."""


class SearchError(AsrmergeError):
    """A search cannot be started or continued."""


class StatisticsError(AsrmergeError):
    """Statistics of a model cannot be collected, or not from this audio."""


class LearningError(AsrmergeError):
    """A merge cannot be learnt from audio."""
