"""The command-line programs, flags around a job, which `train.py`, `sample.py` and `evaluate.py` run."""
