"""The report of a run: every section, well-formed, nothing from elsewhere, complete or absent; and in a browser."""

import base64
import errno
import html
import io
import json
import os
import re
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support import browser
from support.tiny import run as run_program
from support.tiny import save, tiny_config

import ddpm_jax as dj
from ddpm_jax.data.source import load
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import plots
from ddpm_jax.evaluation.evaluate import evaluate
from ddpm_jax.evaluation.extraction import spread
from ddpm_jax.evaluation.report import writing
from ddpm_jax.evaluation.report.markup import Html, element, escaped, table
from ddpm_jax.evaluation.report.pictures import data_uri, fitting, plot
from ddpm_jax.evaluation.report.subject import Subject
from ddpm_jax.evaluation.results import read_results
from ddpm_jax.metrics.calibration import reliability
from ddpm_jax.metrics.memorisation import memorisation

pytestmark = pytest.mark.usefixtures("quick_compilation")

T, NUM = 12, 16
VOID = {"img", "input", "meta", "link"}
HOSTILE = "<script>alert('&')</script>"


class Checker(HTMLParser):
    """Asserts that every element that begins ends, in order, and gathers what a page says and refers to."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.addresses, self.ids, self.images, self.tags = [], [], [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [given[key] for key in ("src", "href", "xlink:href", "action", "data") if key in given]
        self.addresses += re.findall(r"url\((.*?)\)", given.get("style", ""))
        self.images += [given] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        if tag in VOID:
            self.handle_starttag(tag, attrs)
        else:
            self.handle_starttag(tag, attrs)
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & {*self.open}:
            self.text.append(data)


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, quick_compilation):
    """A conditional denoiser, one whose class has the name of a script, and a classifier, of random parameters."""
    folder = tmp_path_factory.mktemp("runs")
    shared = {"diffusion__num_timesteps": T, "diffusion__beta_end": 0.5, "labels__num_classes": 10}
    config = tiny_config(**shared, labels__dropout=0.5, name=HOSTILE, sample__sampler="ddim")
    save(folder / "denoiser", config)
    lines = [{"step": k, "loss": 1 / k, "loss_t1": 2 / k, "images_per_s": 5.0, "held_out_loss": 0.3} for k in (1, 2)]
    (folder / "denoiser" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config.labels.names = (HOSTILE, *"123456789")
    save(folder / "hostile", config)
    save(folder / "classifier", tiny_config(task="classify", **shared))
    return folder


@pytest.fixture(scope="module")
def report(workdirs):
    """The path and the content of the report of the denoiser."""
    path = dj.write_report(dj.Run(workdirs / "denoiser"), num_images=NUM)
    return path, path.read_text()


def commands(page):
    """The commands of a page as lists of arguments, by what they repeat."""
    found = re.findall(r"<h3>([^<]*)</h3><pre[^>]*><code>([^<]*)</code>", page)
    return {name: shlex.split(html.unescape(command)) for name, command in found}


def arrays(page, name):
    """The pictures of a class of the page, `[H, W, C]`."""
    uris = re.findall(rf'class="{name}[^>]*?url\(data:image/png;base64,(.*?)\)', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri)))) for uri in uris]


def test_every_section_is_there_and_none_is_left_out(report):
    path, page = report
    assert path.name == "report.html"
    for name in ("The run", *writing.SECTIONS["denoise"], "Provenance"):
        assert f"<h2>{name}</h2>" in page
        assert f'href="#{writing._anchor(name)}"' in page
    assert "left out" not in page
    said = " ".join(Checker(page).text)
    for words in ("not trained on", "8 x 8 x 1 pixels, 10 classes", "ddim, 12 steps", "jax "):
        assert words in said, words
    assert sorted(path.parent.iterdir()) == [path]


def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(report):
    page = report[1]
    checked = Checker(page)
    assert page.startswith("<!doctype html>")
    assert '<html lang="en">' in page
    assert "http" not in page
    assert all(address.startswith(("data:", "#")) for address in checked.addresses)
    assert len(set(checked.ids)) == len(checked.ids)
    assert {address[1:] for address in checked.addresses if address.startswith("#")} <= set(checked.ids)
    assert all(image["alt"] for image in checked.images)
    assert len(page) < 1_000_000


def test_names_are_text_and_a_part_without_its_data_says_so(workdirs, monkeypatch, tmp_path):
    """The data has classes of other names, so nothing can be measured on it."""
    kept = {
        name: make for name, make in writing.SECTIONS["denoise"].items() if name in ("Samples", "Bits per dimension")
    }
    monkeypatch.setitem(writing.SECTIONS, "denoise", kept)
    page = dj.write_report(dj.Run(workdirs / "hostile"), tmp_path / "page.html", num_images=NUM).read_text()
    checked = Checker(page)
    assert checked.tags.count("script") == 1
    assert HOSTILE not in page
    assert "<h2>Samples</h2>" in page
    said = " ".join(checked.text)
    assert said.count(HOSTILE) >= 3  # the title, the run, the class
    assert "This part is left out: " in said


@pytest.mark.slow
def test_a_command_of_the_page_gives_its_numbers(report, workdirs):
    page = report[1]
    known = commands(page)
    assert {name for name in known if name.startswith("Quality")} == {
        "Quality of ancestral, 10 steps", "Quality of ddim, 10 steps", "Quality of ddim, 12 steps"
    }  # fmt: skip
    for name in ("Quality of ancestral, 10 steps", "Quality of ddim, 12 steps", "Bits per dimension"):
        flags = [word for word in known[name] if word.startswith("--")]
        assert run_program("evaluate.py", *flags).status == 0
        if name.startswith("Quality"):
            distance, both = read_results(workdirs / "denoiser")[-2:]
            for value in (distance["value"], both["precision"]["value"], both["recall"]["value"]):
                assert f"<td>{value:.3f}<small>" in page, name
        else:
            assert f"<strong>{read_results(workdirs / 'denoiser')[-1]['bits_per_dim']:.3f}</strong>" in page
    again = dj.write_report(dj.Run(workdirs / "denoiser"), num_images=NUM).read_text()
    assert '<th scope="row">bpd</th>' in again  # what was measured is recorded


def test_the_scrubber_shows_the_chain(report, workdirs):
    x_t, x_0 = arrays(report[1], "sheet")
    drawn = dj.Run(workdirs / "denoiser").trajectory(6, num_frames=25)
    height = x_t.shape[0] // len(drawn.times)
    for sheet, frames in ((x_t, drawn.x), (x_0, drawn.x_0)):
        for f in (0, 5, len(frames) - 1):
            tile = sheet[f * height + 1 : f * height + 9, 1:9]
            np.testing.assert_allclose(tile[..., 0], dj.to_uint8(frames[f, 0, ..., 0]), atol=1)
            assert (tile[..., 1] == 255).all()
    times = re.search(r'data-times="(.*?)"', report[1])[1].split()
    assert times == [f"{t:g}" for t in drawn.times]


def test_guidance_costs_two_evaluations(workdirs):
    subject = Subject(dj.Run(workdirs / "denoiser").configure(guidance_scale=2, num_steps=3), NUM)
    assert (subject.own.evaluations, subject.own.num_steps) == (6, 3)
    assert subject.own.images.shape == (NUM, 8, 8, 1)
    np.testing.assert_allclose(subject.own.images, subject.run.sample(NUM).astype(int), atol=1)


@pytest.mark.slow
def test_a_classifier_has_its_own_sections(workdirs):
    done = run_program("evaluate.py", f"--workdir={workdirs / 'classifier'}", "--report")
    assert done.status == 0, done.err
    assert done.out.splitlines()[-1] == f"wrote {workdirs / 'classifier' / 'evaluation' / 'report.html'}"
    page = (workdirs / "classifier" / "evaluation" / "report.html").read_text()
    Checker(page)
    for name in writing.SECTIONS["classify"]:
        assert f"<h2>{name}</h2>" in page
    [accuracy] = re.findall(r"<strong>([\d.]+) %</strong>", page)
    result = evaluate(dj.Run(workdirs / "classifier"), ["accuracy"])["accuracy"]
    assert f"{100 * result['accuracy']:.1f}" == accuracy
    assert "the run has no log of its training" in page


def test_a_report_is_complete_or_absent(workdirs, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    monkeypatch.setitem(writing.SECTIONS, "classify", {})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = dj.Run(workdirs / "classifier")
    with monkeypatch.context() as patched:
        patched.setattr(type(path), "write_text", full)
        with pytest.raises(UserError, match=r"cannot write .*report\.html"):
            dj.write_report(run, path)
    assert list(tmp_path.iterdir()) == []
    assert dj.write_report(run, path) == path
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(workdirs, tmp_path, monkeypatch):
    monkeypatch.setitem(writing.SECTIONS, "classify", {"Never": lambda subject: pytest.fail("it was measured")})
    with pytest.raises(UserError, match="cannot write"):
        dj.write_report(dj.Run(workdirs / "classifier"), tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images=folder", "--reference=cifar10"], "--report measures a run"),
        (["--workdir=DIR", "--metrics=bpd"], "leave --metrics out"),
        (["--workdir=DIR", "--reference=cifar10"], "leave --reference out"),
        (["--workdir=DIR", "--num_images=15"], "num_images=15 must be a whole number of at least 16"),
    ],
)
def test_a_flag_without_effect_is_refused(workdirs, flags, message):
    known = [flag.replace("DIR", str(workdirs / "denoiser")) for flag in flags]
    done = run_program("evaluate.py", "--report", *known)
    assert done.status == 1
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_markup_escapes_everything_that_is_not_html():
    assert element("p", "<&>", Html("<b>x</b>"), class_='"') == '<p class="&quot;">&lt;&amp;&gt;<b>x</b></p>'
    assert element("img", alt="a", width=None) == '<img alt="a">'
    assert escaped(Html("<i>")) == "<i>"
    whole = table(("<", "b"), [("<r>", 1)], caption="<c>")
    assert "<r>" not in whole
    assert whole.count("&lt;") == 4  # the caption is also the label of the region


def test_a_picture_is_exact_when_small_and_reduced_when_large():
    rng = np.random.default_rng(0)
    small = rng.integers(256, size=(8, 8, 3), dtype=np.uint8)
    start, _, content = data_uri(small).partition(",")
    assert start == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), small)
    large = rng.integers(256, size=(600, 600, 3), dtype=np.uint8)
    assert data_uri(large).startswith("data:image/webp")
    images = np.stack([np.full((256, 256, 3), value, np.uint8) for value in range(40)])
    kept = fitting(images)
    assert kept.shape == (36, 128, 128, 3)
    np.testing.assert_array_equal(kept[:, 0, 0, 0], np.arange(36))
    with pytest.raises(UserError, match="the images have 4"):
        fitting(np.zeros((1, 8, 8, 4), np.uint8))


def test_the_panels_of_a_plot_are_pictures_of_their_own():
    result = {"times": [1, 2], "terms": [0.2, 0.1], "bits_per_dim": 0.3, "eps_mse": [0.5, 0.1]}
    page = plot(plots.bound(result), name="bound", alt=("the terms", "the <error>"))
    checked = Checker(page)
    assert checked.tags.count("svg") == 2
    assert len(set(checked.ids)) == len(checked.ids)
    assert all(identifier.startswith(("bound-0-", "bound-1-")) for identifier in checked.ids)
    first, second = page.split("<svg")[1:]
    assert 'aria-label="the terms"' in first
    assert "terms of the bound, sum 0.300" in first
    assert "error of the noise" not in first
    assert "the &lt;error&gt;" in second
    assert "error of the noise" in second


def test_reliability_by_hand():
    prob = [[0.9, 0.1], [0.95, 0.05], [0.3, 0.7], [0.5, 0.5]]
    bins = reliability(prob, [0, 1, 1, 0], num_bins=5)
    np.testing.assert_array_equal(bins.count, [0, 0, 1, 1, 2])
    np.testing.assert_allclose(bins.confidence, [0, 0, 0.5, 0.7, 0.925])
    np.testing.assert_allclose(bins.accuracy, [0, 0, 1, 1, 0.5])


@pytest.mark.skipif(not (browser.PROGRAM and browser.SHELL), reason="no Chromium is installed: apt install chromium")
def test_a_browser_shows_the_page_and_its_slider_moves_with_the_keyboard(report):
    path, page = report
    with browser.Page(path) as shown:
        for width in (1400, 400):
            shown.resize(width)
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            wide = "e => { const b = e.getBoundingClientRect(); return b.right > innerWidth + 1 || b.left < -1 }"
            outside = (
                f"[...document.querySelectorAll('p, h1, h2, figure, img, svg, dl, .scroll')].filter({wide}).length"
            )
            assert shown.evaluate(outside) == 0
        broken = "[...document.images].filter(image => !image.naturalWidth).length"
        assert shown.evaluate(broken) == 0
        place = "getComputedStyle(document.querySelector('.sheet')).backgroundPositionY"
        state = f"[document.querySelector('output').textContent, {place}]"
        seen = [shown.evaluate(state)]
        while shown.evaluate("document.activeElement.type") != "range":
            shown.press("Tab")
        for key in ("Home", "ArrowRight", "End"):
            shown.press(key)
            seen.append(shown.evaluate(state))
        times = re.search(r'data-times="(.*?)"', page)[1].split()
        assert [time for time, _ in seen] == [times[-1], times[0], times[1], times[-1]]
        assert [float(re.search(r"[\d.]+%", place)[0][:-1]) for _, place in seen] == pytest.approx(
            [100, 0, 100 / T, 100], abs=0.01
        )
        assert len(shown.screenshot()) > 10_000
    asked = [m["params"]["request"]["url"] for m in shown.messages if m["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert [m for m in shown.messages if m["method"] != "Network.requestWillBeSent"] == []


def test_samples_are_compared_with_images_that_were_held_out(tmp_path, monkeypatch):
    kept = {"Nearest training images": writing.SECTIONS["denoise"]["Nearest training images"]}
    monkeypatch.setitem(writing.SECTIONS, "denoise", kept)
    config = tiny_config(diffusion__num_timesteps=2, diffusion__beta_end=0.9, data__held_out=0.1)
    run = dj.Run(save(tmp_path / "run", config))
    page = dj.write_report(run, tmp_path / "page.html", num_images=NUM).read_text()
    assert "an image that was held out of the training, is" in page
    flat = lambda images: images.reshape(len(images), -1)
    held, train = (flat(load(run.source(split))[0]) for split in ("held_out", "train"))
    ratio = memorisation(flat(dj.from_uint8(run.sample(NUM))), held[spread(NUM, len(held))], train).ratio
    assert f"<strong>{ratio.value:.2f}</strong>" in page
