"""Corpora in the formats that speech engineers have, each read as utterances; a format is one file in ``formats``."""

from asrmerge.speech.corpora.reading import read_corpus

__all__ = ["read_corpus"]
