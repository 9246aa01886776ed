"""The pipeline: data → experts → search → merge → evaluation → report, each stage keyed by what went into it."""
