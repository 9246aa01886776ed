"""Transcripts of any system as files, each read as hypotheses; a format is one file in ``formats``."""

from asrmerge.evaluation.outputs.reading import read_outputs
from asrmerge.evaluation.outputs.trn_file import write_trn

__all__ = ["read_outputs", "write_trn"]
