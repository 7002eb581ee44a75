"""Merging rules: pure functions from one parameter's task vectors, one row per site, to the merged task vector; one paper per file."""
