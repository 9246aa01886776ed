"""Repairing a merged model: its activations get the means and the spreads that its experts' have (REPAIR, arXiv 2211.08403)."""
