"""Experts: a base fine-tuned on one domain's audio."""
