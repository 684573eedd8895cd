"""Samples and images against a reference: the numbers are those of the features, nothing is drawn twice, and what
cannot be compared is refused in one line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.comparison import NUM, REAL, RNG, measured, npz, pixels
from support.tiny import run as run_program
from support.tiny import save, tiny_config

import ddpm_jax as dj
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation import published
from ddpm_jax.evaluation.comparison import compare
from ddpm_jax.evaluation.evaluate import METRICS, evaluate, table
from ddpm_jax.evaluation.extraction import Extraction
from ddpm_jax.evaluation.extractors import Extractor, of_classifier, of_pixels
from ddpm_jax.evaluation.features import extractor
from ddpm_jax.evaluation.quality import QUALITY
from ddpm_jax.evaluation.references import of_path, of_source, reference_of
from ddpm_jax.evaluation.results import read_results
from ddpm_jax.metrics.frechet import frechet_distance, moments
from ddpm_jax.metrics.kernel import kernel_distance
from ddpm_jax.runs.chain import Chain
from ddpm_jax.runtime.devices import device_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def run(tmp_path):
    return dj.Run(save(tmp_path / "run", tiny_config(diffusion__num_timesteps=4, diffusion__beta_end=0.9)))


def test_the_numbers_are_those_of_the_features_of_the_run_s_samples(run):
    results = measured(run, ["fd", "kid", "pr", "dc"])
    samples = run.sample(NUM)
    expected = frechet_distance(moments(pixels(REAL)), moments(pixels(samples)))
    assert results["fd"]["value"] == pytest.approx(expected, rel=1e-5)
    assert results["fd"]["num_images"] == [NUM]
    assert results["kid"]["value"] == pytest.approx(kernel_distance(pixels(REAL), pixels(samples)).value, rel=1e-4)
    assert results["kid"]["num_images"] == [30, NUM]
    assert results["pr"]["precision"]["num_images"] == [NUM, NUM]
    assert 0 <= results["dc"]["coverage"]["value"] <= 1


def test_a_result_has_what_repeats_it_and_is_a_line_of_the_record(run):
    result = measured(run, seed=3, num_steps=2)["fd"]
    assert result["images"]["seed"] == 3
    assert result["images"]["sample"]["num_steps"] == 2
    assert result["images"]["network"] == run.digest()
    assert result["reference"]["num_images"] == 30
    assert result["features"] == {"features": "pixels", "scale": "u / 127.5 - 1"}
    path = run.workdir / "evaluation" / "results.jsonl"
    with path.open("a") as file:
        file.write('{"metric": "cut o')
    measured(run, num_steps=3)
    lines = read_results(run.workdir)
    assert [line["images"]["sample"]["num_steps"] for line in lines] == [2, 3]
    assert lines[0]["value"] == result["value"]
    assert {"time", "jax", "ddpm_jax", "device", "num_devices"} <= lines[0].keys()


def test_an_interrupted_measurement_draws_only_what_is_missing(run, monkeypatch):
    whole = measured(run)["fd"]["value"]
    for path in (run.workdir / "evaluation" / "features").iterdir():
        path.unlink()
    drawn, call = [], Chain.__call__

    def counted(chain, params, key, *, indices, progress=None):
        if len(drawn) == 2:
            drawn.append("stopped")
            raise KeyboardInterrupt
        drawn.append(indices[0])
        return call(chain, params, key, indices=indices, progress=progress)

    monkeypatch.setattr(Chain, "__call__", counted)
    with pytest.raises(KeyboardInterrupt):
        measured(run)
    assert measured(run)["fd"]["value"] == whole
    assert drawn == [0, 8, "stopped", 16]
    kept = sorted((run.workdir / "evaluation" / "features").glob("*.npy"))
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert measured(run, ["fd", "kid"])["fd"]["value"] == whole
    assert len(drawn) in (4, 5)  # the damaged file was of samples or of the reference


def test_features_do_not_depend_on_the_parts_of_a_batch():
    """A batch of 100 images is computed in parts of one size, of which the last one is padded."""
    images = RNG.integers(256, size=(300, 8, 8, 1), dtype=np.uint8)
    for batch_size in (7, 100, 200, 300):
        extraction = Extraction({"pixels": (of_pixels(), ["pool"])}, mesh=device_mesh(), batch_size=batch_size)
        found = of_source(dj.ArrayImages(images))(extraction)["pixels"].features("pool")
        np.testing.assert_allclose(found, pixels(images), atol=1e-6)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        pytest.param({"num_steps": 2}, marks=pytest.mark.slow),
        pytest.param({"configured": {"sampler": "ddim"}}, marks=pytest.mark.slow),
    ],
)
def test_other_samples_are_drawn_anew(run, changed):
    first = measured(run)["fd"]["value"]
    run.configure(**changed.pop("configured", {}))
    assert measured(run, **changed)["fd"]["value"] != first


def test_several_features_of_one_set_are_of_images_drawn_once(run, monkeypatch):
    """And each is kept under its own protocol, so that one of them alone is found again."""
    drawn, call = [], Chain.__call__
    monkeypatch.setattr(Chain, "__call__", lambda *given, **named: drawn.append(1) or call(*given, **named))
    half = of_pixels()._replace(protocol={"features": "half"})
    both = {"whole": (of_pixels(), ["pool"]), "half": (half, ["pool"])}
    options = {"mesh": run.mesh, "cache": run.workdir / "features", "batch_size": 16}
    found = Extraction(both, **options).of_samples(run, num_images=NUM)
    assert len(drawn) == 2
    assert found["half"].protocol == {"features": "half"}
    Extraction({"half": both["half"]}, **options).of_samples(run, num_images=NUM)
    assert len(drawn) == 2


def test_another_output_leaves_those_that_are_kept(run, monkeypatch):
    """And the images are identified by their content in what a result says of them."""
    logits = lambda params, x: {"pool": x.reshape(len(x), -1) / 255.0, "logits": x.reshape(len(x), -1) / 1.0}
    both = Extractor(logits, {}, ("pool", "logits"), {"features": "both"})
    options = {"mesh": run.mesh, "cache": run.workdir / "features", "batch_size": 16}
    images = of_source(dj.ArrayImages(REAL))
    first = images(Extraction({"x": (both, ["pool", "logits"])}, **options))["x"]
    other = of_source(dj.ArrayImages(255 - REAL))(Extraction({"x": (of_pixels(), ["pool"])}, mesh=run.mesh))["x"]
    monkeypatch.setattr("ddpm_jax.evaluation.extraction.Compiled.__call__", None)
    for outputs in (["pool"], ["logits"]):
        [output], found = outputs, images(Extraction({"x": (both, outputs)}, **options))["x"]
        np.testing.assert_array_equal(found.features(output), first.features(output))
    assert first.about["digest"] == found.about["digest"] != other.about["digest"]


def test_features_of_a_classifier_are_what_its_last_layer_gets(tmp_path):
    classifier = dj.Run(save(tmp_path, tiny_config(task="classify", labels__num_classes=3)))
    found = of_classifier(classifier)
    features = jax.jit(found.apply)(found.params, jnp.asarray(REAL[:5]))
    out = classifier.params["pool"]["out"]
    logits = features["pool"] @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(features["logits"], logits, rtol=1e-4, atol=1e-6)
    log_probs = classifier.log_probs(pixels(REAL[:5]).reshape(5, 8, 8, 1).astype(np.float32))[0]
    np.testing.assert_allclose(jax.nn.log_softmax(features["logits"]), log_probs, rtol=1e-4, atol=1e-5)
    assert found.protocol["weights"] == classifier.digest()


def test_what_was_made_in_another_way_is_refused_with_the_difference(run, tmp_path):
    path, other = tmp_path / "a.npz", of_pixels()._replace(protocol={"features": "pixels", "scale": "u / 255"})
    colour = np.repeat(REAL, 3, axis=-1)
    with pytest.raises(UserError, match=r"the images are grey and those of ArrayImages of 30 images are in colour"):
        measured(run, reference=dj.ArrayImages(colour))
    with pytest.raises(UserError, match=r"were made in another way: image_size is 16 there and 8 here$"):
        measured(run, reference=dj.ArrayImages(REAL.repeat(2, 1).repeat(2, 2)))
    known = of_source(dj.ArrayImages(REAL), name="thirty")(Extraction({"x": (other, ["pool"])}, mesh=run.mesh))["x"]
    reference = lambda extraction: dict.fromkeys(extraction.compiled, known)
    with pytest.raises(UserError, match=r"of thirty were made in another way: scale is 'u / 255' there and 'u / 127.5"):
        compare(reference_of(dj.ArrayImages(REAL)), reference, ["fd"], mesh=run.mesh, features="pixels")
    assert not path.exists()


def test_bad_features_and_too_few_images_are_one_line(run):
    broken = Extractor(lambda params, x: {"pool": x.reshape(len(x), -1) * jnp.nan}, {}, ("pool",), {"features": "x"})
    with pytest.raises(UserError, match=r"^the features \(pool\) are not finite: the weights of the feature network"):
        of_source(dj.ArrayImages(REAL))(Extraction({"x": (broken, ["pool"])}, mesh=run.mesh))
    with pytest.raises(UserError, match="images are too few"):
        measured(run, num_images=1)
    with pytest.raises(UserError, match=r"^21 images are too few to extrapolate .* \(KID\)"):
        measured(run, ["fd_inf"])
    with pytest.raises(UserError, match=r"^7 images are too few for precision and recall: use 8 or more of each set$"):
        measured(run, ["pr"], num_images=7)
    with pytest.raises(
        UserError, match=r"^11 images are too few for density and coverage: use 12 or more of each set$"
    ):
        measured(run, ["dc"], num_images=11)
    with pytest.raises(UserError, match=r"^is needs logits, which the features of pixels do not have$"):
        measured(run, ["is"])
    with pytest.raises(UserError, match=r"^fid is defined on the features of inception, not of pixels: use fd for"):
        measured(run, ["fid"])
    with pytest.raises(UserError, match=r"^there are no features 'pixel', and no run .*; did you mean 'pixels'\?$"):
        measured(run, features="pixel")


def test_published_weights_are_asked_for_once(run, tmp_path, monkeypatch):
    """They are found in the cache of this package, where a given file is kept, and in that of torch.hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TORCH_HOME", raising=False)
    name = published.INCEPTION.files[0]
    with pytest.raises(UserError, match=rf"are needed once: download {name} .*--feature_weights=FILE"):
        measured(run, ["fid"], features="")
    assert not list((tmp_path / "cache").rglob("*.pth"))
    hub = tmp_path / "cache" / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / published.INCEPTION.files[1]).write_bytes(b"theirs")
    assert published.known_file(published.INCEPTION, None) == hub / published.INCEPTION.files[1]
    (tmp_path / "given.pth").write_bytes(b"given")
    published.keep(published.INCEPTION, tmp_path / "given.pth")
    assert published.known_file(published.INCEPTION, None).read_bytes() == b"given"
    with pytest.raises(UserError, match=r"given.pth is not the published Inception file: its SHA-256 begins with"):
        extractor("torch_fidelity", weights=tmp_path / "given.pth")
    with pytest.raises(UserError, match=r"^features=pixels needs no weights"):
        extractor("pixels", weights=tmp_path / "given.pth")


def test_images_of_any_project_are_measured(tmp_path):
    folder, mesh = tmp_path / "theirs", device_mesh()
    folder.mkdir()
    for i, image in enumerate(REAL):
        Image.fromarray(image[..., 0]).save(folder / f"{i:03}.png")
    np.savez(tmp_path / "array.npz", REAL)
    results = compare(of_path(folder), of_path(tmp_path / "array.npz"), ["fd"], mesh=mesh, features="pixels")
    assert results["fd"]["value"] == pytest.approx(0, abs=1e-6)
    Image.new("L", (9, 8)).save(folder / "z.png")
    with pytest.raises(UserError, match=r"theirs must be squares of one size: 000.png is 8x8, z.png is 9x8$"):
        of_path(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there are no images in "):
        of_path(tmp_path / "empty")
    with pytest.raises(UserError, match=r"has neither images \(arr_0\) nor statistics"):
        of_path(npz(tmp_path / "other.npz", images=REAL))
    (tmp_path / "half.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"half.npy is damaged, or is not a .npy file of numbers"):
        of_path(tmp_path / "half.npy")


def test_the_program_measures_images_and_makes_references(tmp_path):
    np.savez(tmp_path / "a.npz", REAL)
    reference = tmp_path / "reference.npz"
    made = run_program(
        "evaluate.py", f"--make_reference={reference}", f"--reference={tmp_path / 'a.npz'}", "--features=pixels"
    )
    assert made.out.startswith(f"wrote {reference}: 30 images of "), made
    outcome = run_program(
        "evaluate.py",
        f"--images={tmp_path / 'a.npz'}",
        f"--reference={reference}",
        "--features=pixels",
        "--metrics=fd,pr",
    )
    assert outcome.status == 0, outcome
    lines = outcome.out.splitlines()
    assert lines[0].startswith("fd  ")
    assert [line.split()[0] for line in lines[2:4]] == ["precision", "recall"]
    assert "30 images against 30 of" in lines[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "say what to measure: --workdir=DIR, a run, or --images=FOLDER"),
        (["--images=x.npz"], "--images needs --reference="),
        (["--images=x", "--workdir=y"], "leave --workdir out"),
        (["--images=x", "--reference=y", "--seed=3"], "--seed applies only to a run"),
        (["--images=x", "--reference=y", "--split=train"], "--split applies only to a run"),
        (["--images=x", "--reference=nowhere"], "x is not a folder of images"),
        (["--make_reference=a.npz", "--reference=digits", "--metrics=fd"], "leave --metrics out"),
        (["--make_reference=a.npz", "--reference=digit", "--features=pixels"], "did you mean 'digits'?"),
    ],
)
def test_the_flags_say_what_to_measure(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run_program("evaluate.py", *flags)
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_every_metric_and_every_extractor():
    text = " ".join(run_program("evaluate.py", "--help").out.split())
    for name in {**METRICS, **QUALITY}:
        assert f"{name} " in text or f"{name}," in text
    from ddpm_jax.evaluation.features import NAMES

    assert all(name in text for name in NAMES)


def test_the_table_names_values_counts_and_features(run):
    lines = table(measured(run, ["fd", "pr"]))
    assert lines[0].startswith("fd  ")
    assert "fewer images than features" in lines[0]
    assert lines[1].strip().startswith("21 images against 30 of ")
    assert lines[1].endswith("features: pixels")
    assert json.dumps(lines)


def test_arrays_sources_and_paths_are_measured_by_one_function(tmp_path):
    other = np.roll(REAL, 1, axis=2)
    np.save(tmp_path / "other.npy", other)
    values = [
        dj.measure(images, REAL, ["fd"], features="pixels")["fd"]["value"]
        for images in (other, dj.ArrayImages(other), tmp_path / "other.npy")
    ]
    expected = frechet_distance(moments(pixels(REAL)), moments(pixels(other)))
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    with pytest.raises(UserError, match=r"^the metrics must be a list of names: choose from fid, "):
        dj.measure(other, REAL, "fd")
    with pytest.raises(UserError, match=r"^the metric 'kidd' is not one of: .*; did you mean 'kid'\?$"):
        dj.measure(other, REAL, ["kidd"], features="pixels")
    with pytest.raises(UserError, match=r"^images must be uint8 \[N, H, W, C\], got float64"):
        dj.measure(other / 255, REAL, ["fd"], features="pixels")


def test_a_run_of_a_program_s_images_needs_a_reference(tmp_path):
    config = tiny_config(data__source="custom", given__source="ArrayImages of 30 images")
    run = dj.Run(save(tmp_path, config))
    with pytest.raises(UserError, match="was trained on images that a program gave, so there is nothing to compare"):
        evaluate(run, ["fd"], features="pixels", num_images=4)
    with pytest.raises(UserError, match=r"^num_images=0 must be a whole number of at least 1$"):
        measured(run, num_images=0)


def test_features_that_are_made_in_another_way_are_not_taken_from_the_cache(run):
    whole = of_pixels()
    half = whole._replace(
        apply=lambda params, x: {"pool": whole.apply(params, x)["pool"] / 2}, protocol={"features": "half"}
    )
    images, options = of_source(dj.ArrayImages(REAL)), {"mesh": run.mesh, "cache": run.workdir / "features"}
    first, second = (
        images(Extraction({"x": (each, ["pool"])}, **options))["x"].features("pool") for each in (whole, half)
    )
    np.testing.assert_allclose(second, first / 2, rtol=1e-6)
