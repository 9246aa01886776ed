"""Checkpoints on disk: lazy reading, compatibility, atomic writing."""

from asrmerge.checkpoints.checkpoint import Checkpoint
from asrmerge.checkpoints.compatibility import check_compatible, read_finite
from asrmerge.checkpoints.vocabulary import read_vocabulary
from asrmerge.checkpoints.writing import write_checkpoint

__all__ = ["Checkpoint", "check_compatible", "read_finite", "read_vocabulary", "write_checkpoint"]
