"""`python -m ddpm_jax.jobs.status DIR...`: the program of `commands/status.py`."""

from ddpm_jax.commands.status import command

if __name__ == "__main__":
    command()
