"""Checkpoints on disk: lazy reading, compatibility, atomic writing."""

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible, read_finite
from asrmerge.checkpoints.vocabulary_alignment import aligned, vocabulary_files
from asrmerge.checkpoints.writing import write_checkpoint

__all__ = ["Checkpoint", "aligned", "check_compatible", "read_finite", "vocabulary_files", "write_checkpoint"]
