"""One method per file, each of which ends with ``method = X()``; what begins with an underscore is a helper."""
