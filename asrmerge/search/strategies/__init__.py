"""Strategies of a search, one file each: what to try next, and on how much of the audio."""
