"""Imported before JAX: the process that starts the parts runs on the CPU, so that they can use the accelerator."""

import os
import sys

FLAG = "part"  # of a process that runs one part
OF_PARTS = dict(os.environ)
if not any(argument.lstrip("-").partition("=")[0] == FLAG for argument in sys.argv[1:]):
    os.environ["JAX_PLATFORMS"] = "cpu"
