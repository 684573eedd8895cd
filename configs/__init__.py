"""Experiments: `base.py` has every key with a comment, the others say what they change."""
