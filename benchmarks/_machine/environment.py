"""Imported before JAX: the process that starts the parts runs on the CPU and leaves the accelerator to them."""

import os
import sys

OF_PARTS = dict(os.environ)
if not any(argument.startswith("--part=") for argument in sys.argv):
    os.environ["JAX_PLATFORMS"] = "cpu"
