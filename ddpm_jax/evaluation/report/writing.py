"""The report job: it measures a run, and writes what it is and how good it is as one page, `evaluation/report.html`.

Read next: `subject.py`, what every section is made from; `chains.py` and `measured.py`, the sections.
"""

import datetime
import os
from collections.abc import Callable
from importlib import resources
from string import Template

from ddpm_jax.config import kind
from ddpm_jax.errors import UserError, check_counts, one_line, shortened
from ddpm_jax.evaluation.report import chains, measured, provenance
from ddpm_jax.evaluation.report.markup import Html, element, escaped, joined, paragraph
from ddpm_jax.evaluation.report.subject import Section, Subject
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime.buckets import AnyPath
from ddpm_jax.runtime.devices import is_first
from ddpm_jax.runtime.paths import any_path
from ddpm_jax.runtime.storage import check_writable, write_whole

NUM_IMAGES = 192
"""Images that each chain draws, if no other number is asked for."""
_LEAST_IMAGES = 16  # for neighbours in each half of the images

SECTIONS: dict[str, dict[str, Callable[[Subject], Section]]] = {
    "denoise": {
        "Samples": chains.samples,
        "The chain": chains.chain,
        "Quality, diversity and speed": chains.quality,
        "Bits per dimension": measured.bits,
        "Spectra": measured.spectra,
        "Training": measured.training,
        "Nearest training images": chains.nearest_images,
        "Recorded measurements": provenance.recorded,
    },
    "classify": {
        "Accuracy and calibration": measured.classifier,
        "Training": measured.training,
        "Recorded measurements": provenance.recorded,
    },
}
"""The sections of a report by the kind of the run and their headings, in their order."""


def write_report(
    run: Run,
    path: str | os.PathLike[str] | None = None,
    *,
    num_images: int = NUM_IMAGES,
    seed: int = 0,
    features: str = "",
    weights: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
) -> AnyPath:
    """Measures a run and writes its report, a page of HTML that needs no other file and no network connection.

    A section for which something is missing, such as the data, says so, and the others are complete.

    Args:
      run: the opened run.
      path: the file; None for `WORKDIR/evaluation/report.html`.
      num_images: number of images that each chain draws, 16 or more.
      seed: the seed of the samples.
      features: the features by which samples are compared with the training data, as for `evaluate`; "" for pixels.
      weights: the published file of the weights of these features, where it is not known yet.
      batch_size: images at a time.

    Returns:
      The path of the file.

    Raises:
      UserError: the file cannot be written, or a number is out of range.
    """
    if not isinstance(run, Run):
        raise UserError(f"write_report needs an opened run: Run({str(run)!r})")
    check_counts(least=_LEAST_IMAGES, num_images=num_images)
    check_counts(batch_size=batch_size)
    path = run.workdir / "evaluation" / "report.html" if path is None else any_path(path)
    check_writable(path)
    subject = Subject(run, num_images, seed, features, weights, batch_size)
    page = _page(subject, {name: _made(name, make, subject) for name, make in SECTIONS[kind(run.config)].items()})
    write_whole(path, lambda temporary: temporary.write_text(page, encoding="utf-8", errors="replace"))
    return path


def _made(name: str, make: Callable[[Subject], Section], subject: Subject) -> Section:
    """A section, or the sentence that says why it is left out."""
    if is_first():
        print(f"report: {name.lower()}", flush=True)
    try:
        return make(subject)
    except UserError as error:
        return Section(element("p", f"This part is left out: {error}.", class_="left-out"))


def _page(subject: Subject, sections: dict[str, Section]) -> str:
    """The whole page."""
    date = datetime.datetime.now(datetime.UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0")
    commands = {name: command for section in sections.values() for name, command in section.commands.items()}
    numbers = {name: value for section in sections.values() for name, value in section.numbers.items()}
    origin = provenance.provenance(subject, commands=commands, date=date)
    parts = {
        "The run": provenance.about(subject).content,
        **{name: section.content for name, section in sections.items()},
        "Provenance": origin,
    }
    links = element("ul", *(element("li", element("a", name, href=f"#{_anchor(name)}")) for name in parts))
    tiles = [element("div", element("dt", name), element("dd", value)) for name, value in numbers.items()]
    body = joined(
        element("dl", *tiles, class_="tiles") if tiles else "",
        *(element("section", element("h2", name), part, id=_anchor(name)) for name, part in parts.items()),
    )
    name = shortened(one_line(subject.run.config.name), 60)
    summary = f"Step {subject.run.step:,}, measured on {date}"
    return Template(_file("page.html")).substitute(
        title=escaped(name), summary=paragraph(summary), links=links, body=body,
        style=_file("page.css"), script=_file("page.js"),
    )  # fmt: skip


def _anchor(heading: str) -> str:
    """The identifier of a section."""
    return heading.lower().replace(",", "").replace(" ", "-")


def _file(name: str) -> Html:
    """A file beside this module."""
    return Html((resources.files("ddpm_jax.evaluation.report") / name).read_text(encoding="utf-8"))
