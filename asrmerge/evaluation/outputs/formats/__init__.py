"""Formats of transcripts, one a file, found by ``asrmerge.evaluation.outputs.reading``."""
