"""Published weights in, ours out: diffusers, OpenAI's improved and guided diffusion, and Ho et al.'s in PyTorch.

`names.py` says how a family's tensors are called and laid out, `families.py` has the tables, `loader.py` applies them
in either direction. Read next: `names.py`.
"""
