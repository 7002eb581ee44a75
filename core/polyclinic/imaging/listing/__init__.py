"""Parts of a dataset.json: what it declares under 'labels', and what it says of one case."""
