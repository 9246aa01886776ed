"""From hypotheses to word errors, intervals and scorecards."""
