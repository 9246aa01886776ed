"""One module per family of recognisers; see ``asrmerge.recognizers.recognizer`` for what a module has to hold."""
