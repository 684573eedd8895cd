"""Thirty images as a reference, and what is measured of a run against them."""

import numpy as np

import ddpm_jax as dj
from ddpm_jax.evaluation.evaluate import evaluate

RNG = np.random.default_rng(0)
REAL = RNG.integers(256, size=(30, 8, 8, 1), dtype=np.uint8)
NUM = 21


def pixels(images):
    return images.reshape(len(images), -1) / 127.5 - 1


def measured(run, metrics=("fd",), **options):
    options = {"reference": dj.ArrayImages(REAL), "features": "pixels", "num_images": NUM, "batch_size": 8} | options
    return evaluate(run, list(metrics), **options)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def statistics(features):
    return {"mu": features.mean(0), "sigma": np.cov(features, rowvar=False)}
