"""The digits with the bound of continuous time and a learned density of times (VDM, Kingma et al. 2021).

Command: python train.py --config=configs/digits_vdm.py, then
  python evaluate.py --workdir=runs/digits_vdm --metrics=bpd
Hardware: 2 CPU cores, about 5 minutes.
Reproduces: nothing published.
"""

from ml_collections import ConfigDict

from ddpm_jax.config import experiment


def get_config() -> ConfigDict:
    """The digits with the bound of continuous time."""
    config = experiment("digits")
    config.name = "digits_vdm"
    config.diffusion.schedule = "log_snr"  # with which the plain noise error is the bound
    config.loss.times = "learned"
    config.sample.variance = "small"
    return config
