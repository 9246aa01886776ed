"""One file per merge method; each ends with ``method = …``, the object that the registry finds."""
