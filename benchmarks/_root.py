"""Puts the repository on the import path, so that a benchmark runs from a clone that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
