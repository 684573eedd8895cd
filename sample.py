"""Draws images from a trained run: `python sample.py --help`."""

from ddpm_jax.commands.sample import command

if __name__ == "__main__":
    command()
