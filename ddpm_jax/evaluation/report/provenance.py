"""The sections on where the numbers come from: what the run is, what was measured before, and how to repeat it."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import jax

from ddpm_jax import __version__, factory
from ddpm_jax.config import denoises, to_json
from ddpm_jax.errors import one_line, shortened
from ddpm_jax.evaluation.report.markup import Html, code, element, joined, paragraph, table
from ddpm_jax.evaluation.report.subject import Section, Subject, sampler_of, sampling
from ddpm_jax.evaluation.results import read_results
from ddpm_jax.runtime.devices import all_devices

_LIBRARIES = ("jax", "jaxlib", "flax", "numpy")


def about(subject: Subject) -> Section:
    """What the run is, in one table."""
    run, config = subject.run, subject.run.config
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    data, classes = config.data, run.num_classes
    name = " ".join(str(value) for value in (data.source, data.name, data.split) if value)
    schedule = f"{config.diffusion.schedule}, T = {config.diffusion.num_timesteps:,}"
    rows = [
        ("run", shortened(one_line(config.name), 60)),
        ("task", "a denoiser, which draws images" if denoises(config) else "a classifier of noisy images"),
        ("checkpoint", f"step {run.step:,}, {'averaged' if run.params_name == 'ema' else 'raw'} parameters"),
        ("data", f"{one_line(name)}, {' x '.join(map(str, run.shape))} pixels, {classes or 'no'} classes"),
        ("noise schedule", schedule),
        ("network", f"{parameters:,} parameters: {_network(subject)}"),
    ]
    if denoises(config):
        known, sampler, learned = sampling(run), sampler_of(run), config.diffusion.learned_variance
        rows.append(("target", config.diffusion.target + (" and the variance of a step" if learned else "")))
        variance = f", {known['variance']} variance" if sampler == "ancestral" else ""
        rows.append(("sampler", f"{sampler}{variance}, {run.chain().num_steps:,} steps, {known['grid']} grid"))
    rows.append(
        ("trained with", f"batches of {config.train.batch_size:,}, learning rate {config.optim.learning_rate:g}")
    )
    return Section(table((), rows, caption="The run", name="about"))


def _network(subject: Subject) -> str:
    """The network in a few words."""
    model = subject.run.config.model
    if subject.run.config.network != "configured":
        return shortened(one_line(factory.described(subject.run.model)), 80)
    widths = ", ".join(str(model.channels * factor) for factor in model.channel_mult)
    return f"U-Net, levels of {widths} channels, residual blocks per level: {model.num_res_blocks}"


def recorded(subject: Subject) -> Section:
    """Every measurement that `results.jsonl` has of this run, also of earlier steps."""
    rows = [_recorded(line) for line in read_results(subject.run.workdir)]
    if not rows:
        return Section(paragraph("Nothing is recorded yet: evaluate.py adds a line for everything that it measures."))
    head = ("metric", "value", "step", "images", "steps of the chain", "features", "time")
    shown = table(
        head, rows[::-1][:50], caption="Measurements recorded in results.jsonl, the newest first", name="numbers"
    )
    return Section(shown)


def _recorded(line: Mapping[str, Any]) -> tuple[str, ...]:
    """A line of the record as a row."""
    images, features = line.get("images", {}), line.get("features", {})
    values = {"": line, **{f"{key} ": value for key, value in line.items() if isinstance(value, Mapping)}}
    keys = ("value", "bits_per_dim", "accuracy")
    value = ", ".join(f"{name}{of[key]:.4g}" for name, of in values.items() for key in keys if _is_number(of.get(key)))
    count = images.get("num_images") if isinstance(images, Mapping) else None
    steps = images.get("sample", {}).get("num_steps") if isinstance(images, Mapping) else None
    entries = (
        line.get("metric"), value, line.get("step", images.get("step")), count or line.get("num_images"), steps,
        features.get("protocol", features.get("features")), str(line.get("time", ""))[:16].replace("T", " "),
    )  # fmt: skip
    return tuple("-" if entry in (None, "") else shortened(one_line(entry), 60) for entry in entries)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def provenance(subject: Subject, *, commands: Mapping[str, str], date: str) -> Html:
    """Configuration, digest, versions and device, and the command that repeats each number."""
    device = f"{len(all_devices())} x {all_devices()[0].device_kind}"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    rows = [
        ("digest of the network", element("code", subject.run.digest())),
        ("work directory", element("code", one_line(subject.run.workdir))),
        ("measured", date),
        ("versions", f"ddpm_jax {__version__}, Python {platform.python_version()}, {versions}"),
        ("device", f"{device}, {platform.system()} {platform.machine()}"),
    ]
    config = json.dumps(to_json(subject.run.config), indent=2)
    again = [joined(element("h3", name[:1].upper() + name[1:]), code(command)) for name, command in commands.items()]
    repeated = element("summary", f"The commands that repeat {len(again)} results")
    return joined(
        table((), rows, caption="Where the numbers come from", name="about"),
        paragraph(
            "Image i depends only on the seed and on i, so these commands give the same numbers, up to rounding; "
            "images per second depend on the machine and on what else it does."
        ),
        element("details", repeated, *again, class_="commands"),
        element("details", element("summary", "The configuration"), code(config), class_="configuration"),
    )
