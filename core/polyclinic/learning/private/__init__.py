"""Training with differential privacy for each patient: DP-SGD.

Abadi et al. 2016, "Deep Learning with Differential Privacy", https://arxiv.org/abs/1607.00133. A
step draws each patient with the same chance, independently (Poisson sampling). Each drawn patient's
gradient, over all of that patient's samples in the step, is shortened to a length; Gaussian noise
is added to their sum. So a step tells little about any one patient, and so does everything that is
made of its result.
"""
