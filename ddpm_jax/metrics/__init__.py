"""Measures of sample quality on arrays of features; what the features are is the caller's choice."""
