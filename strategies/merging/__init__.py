"""Hospitals fine-tune whenever they like; the coordinator merges their task vectors as they arrive.

Tian et al. 2024, https://arxiv.org/abs/2408.13038.
"""
