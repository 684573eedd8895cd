"""Prints the page `docs/configuration.md`: `python -m ddpm_jax.config`."""

from ddpm_jax.config.page import as_markdown

if __name__ == "__main__":
    print(as_markdown())
