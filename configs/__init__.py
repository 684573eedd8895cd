"""Experiments: `base.py` has every key with a comment; the other files set the keys that they change."""
