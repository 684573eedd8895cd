"""The sections on what is measured on images of the data: bits per dimension, spectra, a classifier; and training."""

from ddpm_jax.config import distils
from ddpm_jax.errors import UserError, one_line, shortened
from ddpm_jax.evaluation import plots
from ddpm_jax.evaluation.likelihoods import bound
from ddpm_jax.evaluation.measurements import accuracy, power_spectra
from ddpm_jax.evaluation.report.markup import element, figure, joined, paragraph, table
from ddpm_jax.evaluation.report.pictures import plot
from ddpm_jax.evaluation.report.subject import Section, Subject
from ddpm_jax.training.log import read_log

_BOUND_IMAGES, _SPECTRUM_IMAGES, _CLASSIFIED_IMAGES = 32, 64, 500
_SPECTRUM_STEPS = 100  # at most


def bits(subject: Subject) -> Section:
    """Bits per dimension by the variational bound, split by term."""
    images = subject.test_images(_BOUND_IMAGES)
    result = bound(subject.run, images, num_steps=0)
    total = f"{result['bits_per_dim']:.3f}"
    rows = [
        ("all", element("strong", total), f"± {result['standard_error']:.2g}, the bound on -log p(x)"),
        ("L_T", f"{result['L_T']:.2g}", "what the last noisy images still know of the image"),
        ("L_(t-1)", f"{result['L_between']:.3f}", f"the sum of {len(result['terms']) - 1:,} steps"),
        ("L_0", f"{result['L_0']:.3f}", "the decoder, from t = 1 to 256 levels of a pixel"),
    ]
    caption = f"Bits per dimension of {images.num_images} images of the test split, by term"
    shown = figure(
        plot(plots.bound(result), name="bound", alt=("the terms of the bound over t", "the error of the noise over t")),
        "Left: most of the bits are spent at small t, where the finest detail is decided. Right: the error of the "
        "predicted noise, which training makes small; it is largest where there is hardly any noise to be seen.",
    )
    again = subject.command("evaluate", "--metrics=bpd", f"--num_images={_BOUND_IMAGES}")
    numbers = {"bits/dim": total}
    return Section(joined(table((), rows, caption=caption), shown), numbers, {"bits per dimension": again})


def spectra(subject: Subject) -> Section:
    """Band power along the forward and the reverse chain, and when each band settles."""
    num_steps = min(subject.own.num_steps, _SPECTRUM_STEPS)
    result = power_spectra(subject.run, subject.test_images(_SPECTRUM_IMAGES), num_steps=num_steps)
    alt = (
        "power by frequency of noised data",
        "power by frequency of the chain",
        "share of the power of each band over t",
    )
    shown = figure(
        plot(plots.spectrum(result), name="spectrum", alt=alt),
        "Noise hides high frequencies first, so the chain decides low ones first. A chain that follows the process has "
        "the same spectra in the first two panels; in the last, the bands of the estimate of x_0 settle from coarse to "
        "fine.",
    )
    settled = ", ".join(f"{t:g}" for t in result["settling_time"])
    flags = ["--metrics=spectrum", f"--num_images={_SPECTRUM_IMAGES}", f"--num_steps={num_steps}"]
    note = paragraph(
        f"The bands, from 0 periods across the image on, reach half of their final power at t = {settled}."
    )
    return Section(joined(shown, note), commands={"spectra": subject.command("evaluate", *flags, draws=True)})


def classifier(subject: Subject) -> Section:
    """The accuracy of a classifier over t, its calibration, and its accuracy by class."""
    images = subject.test_images(_CLASSIFIED_IMAGES)
    result = accuracy(subject.run, images, num_steps=0)
    note = paragraph(
        f"On {images.num_images} images of the test split without noise, ",
        element("strong", f"{100 * result['accuracy']:.1f} %"), " of the predictions are right, and "
        f"-log p(y | x) is {result['nll_nats']:.3f} nats. Confidence and accuracy differ by "
        f"{result['calibration_error']:.3f} in the mean over bins.",
    )  # fmt: skip
    over_t = figure(
        plot(plots.accuracy(result), name="accuracy", alt=("accuracy over t", "negative log-likelihood over t")),
        "With more noise fewer predictions can be right. A classifier that guides a chain has to be good at large t, "
        "where the class is decided.",
    )
    bins = figure(
        plot(plots.calibration(result), name="calibration", alt=["accuracy over confidence"]),
        "Predictions on images without noise by their confidence: below the line the classifier is too confident.",
    )
    names = result["class_names"] or range(len(result["accuracy_by_class"]))
    known = [(a, name) for name, a in zip(names, result["accuracy_by_class"], strict=True) if a is not None]
    rows = [
        (shortened(one_line(name), 40), f"{100 * a:.1f} %") for a, name in sorted(known, key=lambda pair: pair[0])[:12]
    ]
    classes = table(("class", "accuracy"), rows, caption="Accuracy by class, the worst first", name="numbers short")
    again = subject.command("evaluate", "--metrics=accuracy", f"--num_images={_CLASSIFIED_IMAGES}")
    numbers = {
        "accuracy": f"{100 * result['accuracy']:.1f} %",
        "calibration error": f"{result['calibration_error']:.3f}",
        "-log p(y | x), nats": f"{result['nll_nats']:.3f}",
    }
    return Section(joined(note, over_t, bins, classes), numbers, {"accuracy and calibration": again})


def training(subject: Subject) -> Section:
    """The loss during training, by quarter of t, and that of held-out images where the log has it.

    Raises:
      UserError: the run has no log.
    """
    lines = read_log(subject.run.workdir)
    losses = [line for line in lines if "loss" in line]
    if not losses:
        raise UserError("the run has no log of its training")
    drawn = plots.loss(losses)
    parts = [
        figure(
            plot(drawn, name="loss", alt=[f"{panel.get_ylabel()} over training steps" for panel in drawn.axes]),
            f"The training loss up to step {losses[-1]['step']:,}, over all t and by quarter of t, from little noise "
            "to much. A small t has little noise to predict, so its loss is the largest.",
        )
    ]
    held = [line for line in lines if line.get("held_out_loss") is not None]
    if held:
        caption = (
            f"The loss on images that were not trained on, {held[-1]['held_out_loss']:.4g} at step "
            f"{held[-1]['step']:,}, beside that of training: "
        )
        if distils(subject.run.config):
            caption += "that of a student, which changes with its stage."
        else:
            caption += "where they part, the model begins to memorise."
        shown = plot(plots.held_out(lines), name="held-out", alt=["training and held-out loss over training steps"])
        parts.append(figure(shown, caption))
    return Section(joined(*parts))
