"""What the tests of the metrics share: recorded features and values, normal features, rates of coverage."""

import numpy as np

from support.tiny import ROOT


def golden(name):
    """Features of real and generated images, logits, and torch-fidelity's values, of one of the two cases."""
    with np.load(ROOT / "tests" / "golden" / "metrics.npz") as file:
        start = f"value_{name}_"
        values = {key.removeprefix(start): float(file[key]) for key in file if key.startswith(start)}
        return file[f"{name}_real"], file[f"{name}_fake"], file[f"{name}_logits"], values


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def at_rate(hits, *, least=0.95, most=0.95):
    """Whether the share of hits is one of the rates, within 2.6 standard deviations of a binomial count."""
    margin = 2.6 * np.sqrt(0.95 * 0.05 / len(hits))
    return least - margin <= np.mean(hits) <= most + margin


def contains(estimate, value):
    return estimate.low <= value <= estimate.high
