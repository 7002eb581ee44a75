"""Methods that no strategy uses, kept for `closed_form.py` and `refinement.py`.

Closed-form heads (`moments`, `exact_sum`, `ridge_head`, `gaussian_head`) and coefficients that a
hospital finds itself (`adaptive`).
"""
