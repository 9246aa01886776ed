"""Formats of corpora, one a file, found by ``asrmerge.speech.corpora.reading``."""
