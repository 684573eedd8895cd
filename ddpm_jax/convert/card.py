"""The model card of an exported run: how to open it, what it was trained on, its configuration and its metrics."""

import json
from collections.abc import Sequence

from ml_collections import ConfigDict

from ddpm_jax.config import CUSTOM, to_json
from ddpm_jax.errors import listed, one_line
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime import storage

_DDPM = """\
from diffusers import DDPMPipeline
image = DDPMPipeline.from_pretrained({name})(num_inference_steps={num_timesteps}).images[0]
"""
_DDIM = """\
from diffusers import DDIMPipeline, DDIMScheduler
pipeline = DDIMPipeline.from_pretrained({name})
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
image = pipeline(num_inference_steps={few}, use_clipped_model_output=True).images[0]
"""
_CALL = """\
import torch
from diffusers import DDPMScheduler, UNet2DModel
unet = UNet2DModel.from_pretrained({name}, subfolder="unet")
scheduler = DDPMScheduler.from_pretrained({name}, subfolder="scheduler")
x, label = torch.randn(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size), torch.tensor([0])
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, class_labels=label).sample, t, x).prev_sample
"""
_CARD = """\
---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [ddpm, diffusion, jax]
---

# {name}

A denoising diffusion model of {size}x{size} images with {channels} channel{s}, written by ddpm_jax: {num:,} parameters
({params}), step {step:,}.

```python
{code}```
{notes}
## Data

{data}

## Figures

{figures}

## Configuration

```json
{config}
```
"""


def model_card(run: Run, name: str, *, pipelines: Sequence[str], num_params: int) -> str:
    """The model card, in Markdown.

    Args:
      run: the run that was exported.
      name: the name of the folder.
      pipelines: names of the diffusers pipelines that can sample from it.
      num_params: number of parameters.
    """
    data, config = run.config.data, to_json(run.config)
    quoted = json.dumps(name, ensure_ascii=False)  # this is valid Python too
    num_timesteps = run.config.diffusion.num_timesteps
    named = {"name": quoted, "num_timesteps": num_timesteps, "few": min(50, num_timesteps)}
    code = "\n".join({"DDPMPipeline": _DDPM, "DDIMPipeline": _DDIM}[p].format(**named) for p in pipelines)
    config["data"].pop("path")  # a path on somebody's machine
    return _CARD.format(
        name=one_line(name),
        size=data.image_size,
        channels=data.channels,
        s="" if data.channels == 1 else "s",
        num=num_params,
        params={"ema": "averaged", "raw": "as of the last step"}[run.params_name],
        step=run.step,
        code=code or _CALL.format(name=quoted),
        notes=_notes(run.config),
        data=_data(run),
        figures=_figures(run) or "None were measured.",
        config=json.dumps(config, indent=2),
    )


def _notes(config: ConfigDict) -> str:
    """What a user of the pipelines must know; empty where there is nothing."""
    notes = []
    if config.diffusion.learned_variance:
        notes.append("\nThe network has a learned variance, which `DDIMScheduler` does not support.\n")
    if config.labels.num_classes:
        null = f"; class {config.labels.num_classes} is the null label" if config.labels.dropout else ""
        names = f": {one_line(listed(config.labels.names, 20))}" if config.labels.names else ""
        notes.append(
            f"\nThe network is conditioned on one of {config.labels.num_classes} classes, numbered from 0{null}{names}."
            " diffusers' unconditional pipelines cannot choose a class.\n"
        )
    return "".join(notes)


def _data(run: Run) -> str:
    """What the run was trained on, and which weights it started from."""
    data, source = run.config.data, run.workdir / "provenance.json"
    named = {
        "digits": f"UCI digits, split {data.split}",
        "folder": "a folder of images",
        "tfds": f"{data.name}, split {data.split}",
        CUSTOM: "images that a program gave",
    }.get(data.source, f"images of the source {data.source}")
    trained = f"{named}, {'with' if data.random_flip else 'without'} random flips."
    if not storage.exists(source):
        return trained
    provenance = json.loads(storage.read_text(source))
    files = ", ".join(f"{file['name']} (sha256 {file['sha256']})" for file in provenance["files"])
    origin = f"converted from {provenance['format']} weights, {files}"
    return (
        f"Not trained further: {origin}."
        if run.step == 0
        else f"Trained on: {trained}\n\nBefore that, it was {origin}."
    )


def _figures(run: Run) -> str:
    """The results of the evaluations of the exported parameters, as a list in Markdown; empty where there are none."""
    lines = []
    folder = run.workdir / "evaluation"
    for path in (folder / name for name in storage.names(folder) if name.endswith(".json")):
        result = json.loads(storage.read_text(path))
        if result.get("params") == run.params_name:
            numbers = [f"{key} {value:.5g}" for key, value in result.items() if isinstance(value, int | float)]
            lines.append(f"- {path.stem}: {', '.join(numbers)}")
    return "\n".join(lines)
