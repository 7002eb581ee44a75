"""Measures in reports: the worst hospital and the gap first, then every measure with its support.

`standing` finds the worst hospital of each strategy. `tables` lists measures by class and hospital.
`terminal` writes both for a terminal; templates/measures.html.j2 for a page.
"""
