"""The report of a run: one page of HTML that needs nothing else. Read next: `writing.py`, `subject.py`, `chains.py`."""

from ddpm_jax.evaluation.report.writing import write_report

__all__ = ["write_report"]
