"""Measures a trained run: `python evaluate.py --help`."""

from ddpm_jax.commands.evaluate import command

if __name__ == "__main__":
    command()
