"""A trained run opened: chains, samples, edits, and the files that are written."""
