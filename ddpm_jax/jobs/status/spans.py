"""Durations in words."""


def span(seconds: float) -> str:
    """A duration in its largest fitting unit: "12 s", "12 min", "3.5 h" or "2.1 days"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
