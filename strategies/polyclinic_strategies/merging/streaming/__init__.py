"""Merging of models in files, tensor by tensor: streams, running sums, the merge itself."""
