"""The command-line programs behind `train.py`, `sample.py` and `evaluate.py`: each parses flags and starts a job."""
