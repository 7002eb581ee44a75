"""Merging rules: pure functions from one parameter's task vectors to the merged task vector.

A rule sees one task vector per site. There is one paper per file.
"""
