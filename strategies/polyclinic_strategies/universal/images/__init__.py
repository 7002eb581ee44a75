"""Images without labels, and random views of them."""
