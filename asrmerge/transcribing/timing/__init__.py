"""Transcripts with times, one file per family of recognisers, with a function ``transcribe``."""
