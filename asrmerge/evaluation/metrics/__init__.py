"""One file per metric; each ends with its ``metric``. Files that begin with an underscore are helpers."""
