"""The metric "memorisation": a run that copies its training images is caught, one that draws others is not."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from support.tiny import run as run_program
from support.tiny import save, tiny_config

import ddpm_jax as dj
from ddpm_jax import factory
from ddpm_jax.data.held_out import Part
from ddpm_jax.data.source import load
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.evaluate import evaluate, table
from ddpm_jax.evaluation.extraction import Extraction
from ddpm_jax.evaluation.plots import results
from ddpm_jax.metrics.memorisation import memorisation
from ddpm_jax.runs.chain import Chain

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
SHORT = {"diffusion__num_timesteps": 4, "diffusion__beta_end": 0.9}


def digits(split, held_out=None):
    """Digits in [-1, 1]: of the training without or with those that are held out."""
    whole = dj.Digits(split)
    return load(whole if held_out is None else Part(whole, 0.2, held_out=held_out))[0]


def drawing(images, monkeypatch):
    """Replaces the chain: image i is `images[i]`."""
    drawn = lambda chain, params, key, *, indices, progress=None: images[np.asarray(indices) % len(images)]
    monkeypatch.setattr(Chain, "__call__", drawn)


def measured(run, **options):
    return evaluate(run, ["memorisation"], **{"num_images": 100, "batch_size": 50} | options)["memorisation"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"), tiny_config(data__held_out=0.2, **SHORT))


@pytest.fixture
def run(workdir):
    shutil.rmtree(workdir / "evaluation", ignore_errors=True)  # it keeps what another test has drawn
    return dj.Run(workdir)


def test_copies_are_caught_and_shown_with_what_they_copy(run, monkeypatch):
    """The samples are training images plus little noise, in an order of their own."""
    train = digits("train", held_out=False)
    chosen = RNG.permutation(len(train))[:100]
    copies = np.clip(train[chosen] + RNG.normal(0, 0.05, train[chosen].shape), -1, 1).astype(np.float32)
    drawing(copies, monkeypatch)
    result = measured(run)
    assert result["value"] <= result["high"] < 0.3
    assert [pair["image"] for pair in result["pairs"]] == [chosen[pair["sample"]] for pair in result["pairs"]]
    distances = [pair["distance"] for pair in result["pairs"]]
    assert distances == sorted(distances)
    assert len(distances) == 24
    shown = [line.strip() for line in table({"memorisation": result})]
    assert shown[0].startswith("memorisation   0.")
    assert shown[-1].endswith("a ratio near 1: no copies, near 0: copies")


def test_images_of_the_same_distribution_are_not(run, monkeypatch):
    held_out = digits("train", held_out=True)
    drawing(held_out[RNG.permutation(len(held_out))], monkeypatch)
    result = measured(run)
    assert result["low"] < 1 < result["high"]
    assert result["low"] > 0.7


def test_the_number_is_that_of_the_features_of_the_three_sets(run, monkeypatch):
    samples = np.clip(RNG.normal(0, 0.5, (60, 8, 8, 1)), -1, 1).astype(np.float32)
    drawing(samples, monkeypatch)
    result = measured(run, num_images=60)
    flat = lambda images: images.reshape(len(images), -1)
    drawn = dj.from_uint8(dj.to_uint8(samples))
    sets = [flat(drawn), flat(digits("train", held_out=True)), flat(digits("train", held_out=False))]
    expected = memorisation(*sets)
    assert result["value"] == pytest.approx(expected.ratio.value, rel=1e-5)
    assert result["median_distance"] == pytest.approx(np.median(expected.distance), rel=1e-5)
    assert result["held_out_median_distance"] == pytest.approx(np.median(expected.held_out_distance), rel=1e-5)
    assert result["reference"]["held_out"] == 0.2
    assert result["num_images"] == [60, len(sets[1])]


def test_the_plot_has_each_sample_above_its_nearest_training_image(run, monkeypatch):
    figures = []
    original = results.strips

    def kept(images, **options):
        figures.append((np.asarray(images), options))
        return original(images, **options)

    monkeypatch.setattr(results, "strips", kept)
    result = measured(run)
    ((images, options),) = figures
    assert options["rows"] == ["sample", "nearest"] * 3
    assert images.shape == (6, 8, 8, 8, 1)
    samples, train = dj.from_uint8(run.sample(100, batch_size=50)), digits("train", held_out=False)
    for i, pair in enumerate(result["pairs"]):
        row, column = divmod(i, 8)
        np.testing.assert_array_equal(images[2 * row, column], samples[pair["sample"]])
        np.testing.assert_array_equal(images[2 * row + 1, column], train[pair["image"]])
    folder = run.workdir / "evaluation"
    with Image.open(folder / "memorisation.png") as picture:
        assert picture.size[0] > 100
    written = json.loads((folder / "memorisation.json").read_text())
    assert written == result
    assert "pictures" not in written


def test_without_held_out_images_it_is_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(Extraction, "of_samples", lambda *given, **named: pytest.fail("samples were drawn"))
    whole = dj.Run(save(tmp_path, tiny_config(**SHORT)))
    line = r"^memorisation needs images that were held out of the training, and digits train has none: train with co"
    with pytest.raises(UserError, match=line):
        measured(whole)
    with pytest.raises(UserError, match=r"with config\.data\.held_out=0\.1, and compare with the data of the run$"):
        measured(whole, reference=dj.Digits("test"))
    assert not (tmp_path / "evaluation" / "memorisation.json").exists()


def test_other_metrics_of_the_run_do_not_read_the_held_out_images(run, monkeypatch):
    read = []
    of_source = Extraction.of_source

    def counted(extraction, source, indices, *, about):
        read.append(len(indices))
        return of_source(extraction, source, indices, about=about)

    monkeypatch.setattr(Extraction, "of_source", counted)
    evaluate(run, ["fd"], features="pixels", num_images=20)
    num_held_out = len(run.source("held_out"))
    assert read == [1297 - num_held_out]
    measured(run, num_images=20)
    assert read[1:] == [1297 - num_held_out, num_held_out]


@pytest.mark.slow
def test_a_source_of_a_program_is_divided_as_in_its_training(tmp_path, monkeypatch):
    images = RNG.integers(256, size=(90, 8, 8, 1), dtype=np.uint8)
    config = tiny_config(data__source="custom", data__held_out=0.3, **SHORT)
    run = dj.Run(save(tmp_path, config))
    source = dj.ArrayImages(images)
    drawing(load(Part(source, 0.3, held_out=False))[0], monkeypatch)
    result = measured(run, reference=source, num_images=30)
    assert result["value"] == 0
    assert result["reference"]["num_images"] == len(factory.source(config, source))


def test_the_program_prints_it(workdir):
    found = run_program("evaluate.py", f"--workdir={workdir}", "--metrics=memorisation", "--num_images=20")
    assert found.status == 0, found.err
    assert "\nmemorisation   " in found.out
    assert "median distance to the nearest training image" in found.out


@pytest.mark.slow
def test_images_that_no_picture_shows_have_no_plot(tmp_path):
    images = RNG.integers(256, size=(40, 8, 8, 2), dtype=np.uint8)
    config = tiny_config(data__source="custom", data__channels=2, data__held_out=0.3, **SHORT)
    run = dj.Run(save(tmp_path, config))
    assert measured(run, reference=dj.ArrayImages(images), num_images=10)["value"] > 0
    assert not (tmp_path / "evaluation" / "memorisation.png").exists()
