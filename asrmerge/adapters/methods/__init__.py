"""Methods that merge LoRA factors, one file each; a file ends with ``method = X()``."""
