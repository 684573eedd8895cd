"""The parts of `accelerator.py`: each measures one thing of this machine, in a process of its own."""
