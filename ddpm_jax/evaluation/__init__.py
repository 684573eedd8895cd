"""The measurements of a trained run, and their plots."""
