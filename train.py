"""Trains a diffusion model, or resumes training one: `python train.py --help`."""

from ddpm_jax.commands.train import command

if __name__ == "__main__":
    command()
