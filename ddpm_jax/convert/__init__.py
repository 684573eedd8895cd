"""Conversion of published weights: diffusers, OpenAI's improved and guided diffusion, and Ho et al.'s in PyTorch.

`names.py` defines how the names and layouts of a family's tensors are described, `families.py` has the tables, and
`loader.py` applies them in either direction. Read next: `names.py`.
"""
