"""The playground in a browser: what its JavaScript computes, and when its page has done what was asked."""

import json
from pathlib import Path

import numpy as np
import pytest

from support import browser
from support.tiny import ROOT

FOLDER = ROOT / "docs" / "play"
_MADE = """
const {arrays, schedules, timesteps, analytic, guidance, samplers, spectrum, metrics, worlds, unet} = modules;
const floats = (x) => Float64Array.from(x), lists = (x) => Array.from(x, (row) => Array.from(row));
"""


def opened(path: Path) -> browser.Page:
    """A page in a browser; the test is skipped where there is none."""
    if not (browser.PROGRAM and browser.SHELL):
        pytest.skip("no Chromium is installed: apt install chromium")
    return browser.Page(path)


def told(page, body, **given):
    """What a body of JavaScript returns, which has the modules and the given values."""
    names = ", ".join(given)
    return page.evaluate(f"(({{{names}}}) => {{ {_MADE} {body} }})({json.dumps(given)})")


def flat(x):
    """An array as a list of numbers."""
    return np.asarray(x, np.float64).ravel().tolist()


def mixture_of(page, name):
    """A mixture of the page as one of the package, with the class of each component."""
    body = """
    const {model, label_of} = worlds.world("plane", name);
    const [weights, means, variances] = lists([model.weights, model.means, model.variances]);
    return {weights, means, variances, label_of};
    """
    found = told(page, body, name=name)
    weights, variances = np.array(found["weights"]), np.array(found["variances"])
    means = np.reshape(found["means"], (len(weights), 2))
    return weights, means, variances[:, None, None] * np.eye(2), np.array(found["label_of"])


def settled(page, condition, limit=600):
    """Waits until a condition of the page holds."""
    for _ in range(limit):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.evaluate("new Promise((done) => setTimeout(done, 20))")
    raise AssertionError(condition)


def complaints(page):
    """What the page wrote to the console, and its errors."""
    return [message for message in page.messages if message["method"] != "Network.requestWillBeSent"]
