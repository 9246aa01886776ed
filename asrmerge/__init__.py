"""asrmerge: one speech recogniser out of several domain fine-tunes."""

__version__ = "0.1.0"
