"""What a model reveals on audio, collected once for the merges that use it: Fisher information, Gram matrices, activations."""
