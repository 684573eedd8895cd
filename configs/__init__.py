"""Experiments: `base.py` has the defaults; the other files set the keys that they change."""
