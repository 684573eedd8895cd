"""A trained run opened for use: chains, samples, edits, and the files that are written."""
