"""The universal model: hospitals with different tasks teach one encoder. Radwan et al. 2024, https://arxiv.org/abs/2407.14719."""
