"""The sections on what a denoiser draws: samples, the chain, quality and speed, and the nearest training images."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddpm_jax import factory
from ddpm_jax.data.in_memory import ArrayImages
from ddpm_jax.errors import UserError, one_line, shortened
from ddpm_jax.evaluation.extraction import Extraction, spread
from ddpm_jax.evaluation.feature_sets import FeatureSet, check_comparable
from ddpm_jax.evaluation.features import extractor
from ddpm_jax.evaluation.quality import QUALITY
from ddpm_jax.evaluation.references import reference_of
from ddpm_jax.evaluation.report.markup import Html, element, figure, joined, paragraph, table
from ddpm_jax.evaluation.report.pictures import fitting, grid, halves, plot, sheet
from ddpm_jax.evaluation.report.subject import Drawn, Section, Subject, sampler_of, sampling
from ddpm_jax.evaluation.report.trilemma import trilemma
from ddpm_jax.metrics.memorisation import memorisation
from ddpm_jax.metrics.neighbours import nearest
from ddpm_jax.runtime.images import from_uint8, to_uint8

_CHAINS = [(sampler, num_steps) for sampler in ("ancestral", "ddim") for num_steps in (10, 20, 50)]
_METRICS = ("fd", "pr")
_MOST_CLASSES, _MOST_OF_CLASS = 12, 10  # in the picture by class
_MOST_NUMBERS = 2**27  # of all training images with which samples are compared


def samples(subject: Subject) -> Section:
    """Images that the run's own chain draws, not selected, and some of each class where it has classes."""
    drawn, labels = subject.own, subject.run.labels()
    shown = fitting(drawn.images)[:60]
    order = np.random.default_rng(0).permutation(len(shown)) if labels else np.arange(len(shown))
    chain = f"{sampler_of(subject.run)}, {drawn.num_steps:,} steps"
    alt = f"{len(shown)} samples of the run"
    whole = halves(shown[order], columns=min(12, 2 * math.isqrt(len(shown))), alt=alt)
    parts = [figure(whole, f"{len(shown)} samples, not selected: {chain}, seed {subject.seed}.", name="wide")]
    if len(labels) > 1:
        parts.append(_by_class(subject, labels))
    again = subject.command("sample", f"--num_images={len(shown)}", draws=True)
    return Section(joined(*parts), commands={"samples": again})


def _by_class(subject: Subject, labels: tuple[int, ...]) -> Html:
    """Some samples of each class, with its name."""
    names, rows = subject.run.class_names, []
    for k in range(min(len(labels), _MOST_CLASSES)):
        images = fitting(subject.own.images[k :: len(labels)], side=64)[:_MOST_OF_CLASS]
        name = shortened(one_line(names[labels[k]]), 40) if names else str(labels[k])
        rows.append((name, grid(images, columns=_MOST_OF_CLASS, alt=f"samples of class {name}")))
    scale = sampling(subject.run)["guidance_scale"]
    shown = f"Samples by class, guidance scale {scale:g}" + (
        f": {len(rows)} of {len(labels)} classes." if len(rows) < len(labels) else "."
    )
    return table((), rows, caption=shown, name="classes")


def chain(subject: Subject) -> Section:
    """The chain at some of its times, which a slider chooses: x_t beside the estimate of x_0."""
    frames, count = subject.own.frames, 16
    kept = []
    for xs in (frames.x, frames.x_0):
        images = to_uint8(xs)
        size = fitting(images[0], side=64, least=4)[:count].shape
        kept.append(
            np.stack(
                [fitting(image, side=64, least=4)[: min(size[0], _most_of_sheet(size, len(xs)))] for image in images]
            )
        )
    columns, times = math.ceil(math.sqrt(len(kept[0][0]))), [f"{t:g}" for t in frames.times]
    views = [
        figure(sheet(one, columns=columns, alt=alt), caption)
        for one, alt, caption in zip(
            kept,
            ("the noisy images", "the estimates of the images without noise"),
            (_symbol("x", "t"), joined("estimate of ", _symbol("x", "0"))),
            strict=True,
        )
    ]
    last = len(times) - 1
    slider = element("input", type="range", id="time", min=0, max=last, value=last, step=1, data_times=" ".join(times))
    label = element("label", "t = ", element("output", times[-1], for_="time"), for_="time")
    note = paragraph(
        "Each step takes the noisy images ", _symbol("x", "t"), " at the left a little nearer to images; the sampler "
        "steps towards the estimate at the right, a blurred mean of all images that are possible given ",
        _symbol("x", "t"), ".", element("span", " The slider also moves with the arrow keys.", class_="on-screen"),
    )  # fmt: skip
    strip = figure(
        _strip(kept, times), "The chain from noise to images: x_t above, the estimate of x_0 below.", name="strip"
    )
    whole = element("div", *views, element("div", label, slider, class_="slider"), class_="scrubber")
    again = subject.command("sample", "--trajectory=chain.gif", "--num_images=16", draws=True)
    return Section(joined(note, whole, strip), commands={"the chain as an animation": again})


def _most_of_sheet(shape: tuple[int, ...], num_frames: int) -> int:
    """How many images of a shape `[N, H, W, C]` the frames of a sheet may have."""
    return max(4, 2_000_000 // (num_frames * math.prod(shape[1:3])))


def _symbol(name: str, index: str) -> Html:
    return element("var", name, element("sub", index))


def _strip(kept: list[np.ndarray], times: list[str]) -> Html:
    """The first image at a few times, for paper."""
    chosen = np.linspace(0, len(times) - 1, 8).astype(int)
    rows = np.concatenate([one[chosen, 0] for one in kept])
    return grid(rows, columns=len(chosen), alt=f"the first image at t = {', '.join(times[i] for i in chosen)}")


def quality(subject: Subject) -> Section:
    """Precision, recall and Frechet distance of several chains, beside what an image costs."""
    rows, real, commands = compared(subject)
    own = sampler_of(subject.run), subject.own.num_steps
    [last] = [row for row in rows if (row["name"], row["num_steps"]) == own]
    numbers = {
        f"Frechet distance, {subject.features or 'pixels'}": f"{last['distance']['value']:.3g}",
        "precision": f"{last['precision']['value']:.2f}",
        "recall": f"{last['recall']['value']:.2f}",
        "images/s": f"{1 / last['seconds']:,.3g}",
    }
    return Section(_of_rows(rows, last, subject, real), numbers, commands)


def compared(subject: Subject) -> tuple[list[dict[str, Any]], FeatureSet, dict[str, str]]:
    """What is measured of several chains, as for `trilemma`; the reference; and the commands that repeat each."""
    extraction = Extraction({"features": (extractor(subject.features or "pixels", weights=subject.weights), ("pool",))},
                            mesh=subject.run.mesh)  # fmt: skip
    real, most = reference_of("", subject.run)(extraction)["features"], _timesteps(subject)
    own = sampler_of(subject.run), subject.own.num_steps
    rows, commands = [], {}
    for name, num_steps in [*[pair for pair in _CHAINS if pair[1] <= most and pair != own], own]:
        run = subject.with_sampler(name)
        drawn = subject.own if (name, num_steps) == own else subject.draw(run, num_steps=num_steps)
        rows.append(_measured(name, drawn, real, extraction))
        flags = [f"--metrics={','.join(_METRICS)}", f"--features={subject.features or 'pixels'}"]
        flags += [f"--num_images={subject.num_images}", f"--num_steps={num_steps}"]
        commands[f"quality of {name}, {num_steps} steps"] = subject.command("evaluate", *flags, run=run, draws=True)
    return sorted(rows, key=lambda row: (row["name"], row["num_steps"])), real, commands


def _of_rows(rows: list[dict[str, Any]], last: dict[str, Any], subject: Subject, real: FeatureSet) -> Html:
    """The text, the figure and the table of the section on quality."""
    features = subject.features or "pixels"
    note = paragraph(
        "Precision is the share of samples that look like an image of the data, recall the share of the data that the "
        "samples reach. Both count balls around the nearest neighbours, so samples that have shrunk towards the mean, "
        "as those of few steps do, count as precise; the Frechet distance compares mean and covariance, and sees that. "
        f"Each chain drew {subject.num_images:,} images, the reference has {real.about['num_images']:,} training "
        f"images, and the features are {features}. Distances of other numbers of images are not comparable with these."
    )
    alt = ("precision against recall of each chain", "the Frechet distance over the evaluations of the network")
    shown = figure(
        plot(trilemma(rows), name="trilemma", alt=alt),
        "Left: up is better in quality, right is better in diversity, and a smaller disc is faster. "
        "Right: the distance to the data over what an image costs; lower is better, and further left is cheaper.",
    )
    head = ("chain", "steps", "evaluations per image", "images/s", "Frechet distance", "precision", "recall")
    cells = [_cells(row, " of the run" if row is last else "") for row in rows]
    return joined(
        note, shown, table(head, cells, caption="Quality, diversity and speed, with standard errors", name="numbers")
    )


def _cells(row: Mapping[str, Any], whose: str) -> tuple[object, ...]:
    """The cells of a chain in the table on quality."""
    costs = (f"{row['num_steps']:,}", f"{row['evaluations']:,}", f"{1 / row['seconds']:,.3g}")
    qualities = (_estimate(row[key]) for key in ("distance", "precision", "recall"))
    return joined(row["name"], element("small", whose)), *costs, *qualities


def _measured(name: str, drawn: Drawn, real: FeatureSet, extraction: Extraction) -> dict[str, Any]:
    """What the section on quality shows of a chain."""
    source = ArrayImages(drawn.images)
    found = extraction.of_source(source, np.arange(len(source)), about={"kind": "samples"})["features"]
    check_comparable(found, real)
    distance, both = (QUALITY[metric].measure(found, real) for metric in _METRICS)
    costs = {"seconds": drawn.seconds, "evaluations": drawn.evaluations}
    return {"name": name, "num_steps": drawn.num_steps, "distance": distance, **both, **costs}


def _estimate(known: Mapping[str, Any]) -> Html:
    """An estimate with its standard error."""
    return joined(f"{known['value']:.3f}", element("small", f" ± {known['standard_error']:.2g}"))


def _timesteps(subject: Subject) -> int:
    return factory.noise_schedule(subject.run.config).num_timesteps


def nearest_images(subject: Subject) -> Section:
    """The samples that are nearest to a training image, beside it."""
    data = subject.source(subject.run.config.data.split)
    num = min(len(data), max(1, _MOST_NUMBERS // math.prod(subject.run.shape)))
    train, drawn = _images(data, spread(num, len(data))), subject.own.images
    found = nearest(_pixels(drawn), _pixels(train), 1)
    closest = np.argsort(found.distance[:, 0], kind="stable")[:12]
    pairs = fitting(np.concatenate([drawn[closest], train[found.index[closest, 0]]]), side=64, least=24)
    note = paragraph(_ratio(subject, drawn, train))
    of = f"{num:,} training images" if num == len(data) else f"{num:,} of the {len(data):,} training images"
    caption = (
        f"The {len(closest)} samples of {len(drawn):,} that are nearest to one of {of}, in pixels: the samples above, "
        "the training images below."
    )
    whole = halves(pairs, columns=len(closest), alt="samples above their nearest training images")
    return Section(joined(note, figure(whole, caption, name="wide")))


def _ratio(subject: Subject, drawn: np.ndarray, train: np.ndarray) -> Html:
    """How near the samples are to training images, relative to images that were held out, or else of the test split."""
    data_config = subject.run.config.data
    try:
        if data_config.source == "folder" and not data_config.held_out:
            raise UserError("the data has no images that were not trained on")
        data = subject.source("held_out" if data_config.held_out else "test")
        held = _images(data, spread(len(drawn), len(data)))
        ratio = memorisation(_pixels(drawn), _pixels(held), _pixels(train)).ratio
    except UserError as error:
        return joined(
            "A model that has memorised its data draws copies of it. The distances have no measure here: ", error, "."
        )
    of = "that was held out of the training" if data_config.held_out else "of the test split"
    return joined(
        "A model that has memorised its data draws copies of it. The median distance of a sample to its nearest "
        f"training image, divided by that of an image {of}, is ", element("strong", f"{ratio.value:.2f}"),
        f" (95 %: {ratio.low:.2f} to {ratio.high:.2f}): near 1 for images of the distribution, near 0 for copies.",
    )  # fmt: skip


def _images(source: Any, indices: np.ndarray) -> np.ndarray:
    """Images of a source `[N, H, W, C]` uint8."""
    return np.stack([source[i]["image"] for i in indices.tolist()])


def _pixels(images: np.ndarray) -> np.ndarray:
    """Images `[N, H, W, C]` uint8 as features `[N, D]` in [-1, 1]."""
    return from_uint8(images).reshape(len(images), -1)
