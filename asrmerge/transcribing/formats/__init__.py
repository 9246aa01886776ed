"""Output formats, one file each, which ends with ``format = X()``."""
