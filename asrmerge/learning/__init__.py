"""Merges that are learnt from audio: the gradient of a loss on speech, through the merged model, with respect to coefficients."""
