"""Measures of a model on a hospital's cases, each with its support and an interval.

`names` lists them, `estimates` is what a figure is and what of it leaves a hospital, `bootstrap`
makes intervals. `surfaces`, `lesions` and `segmentation` measure label maps, `classification` and
`findings` measure probabilities, `regression` numbers. `paired` compares two models by case.
docs/reference/measures.md has the definitions.
"""
