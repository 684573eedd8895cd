"""References of samples: files of this project and of others, their protocols, and damaged ones."""

import numpy as np
import pytest
from support.comparison import REAL, measured, npz, pixels, statistics
from support.tiny import save, tiny_config

import ddpm_jax as dj
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.comparison import make_reference
from ddpm_jax.evaluation.extraction import Extraction
from ddpm_jax.evaluation.extractors import of_pixels
from ddpm_jax.evaluation.feature_sets import read_reference
from ddpm_jax.evaluation.references import of_path, of_source

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def run(tmp_path):
    return dj.Run(save(tmp_path / "run", tiny_config(diffusion__num_timesteps=4, diffusion__beta_end=0.9)))


def test_a_reference_file_gives_the_number_of_its_images(run, tmp_path):
    path = tmp_path / "reference.npz"
    images = of_source(dj.ArrayImages(REAL), kind="source", name="thirty")
    make_reference(path, images, mesh=run.mesh, features="pixels")
    direct, stored = measured(run, ["fd", "kid"]), measured(run, ["fd", "kid"], reference=path)
    for name in direct:
        assert stored[name]["value"] == pytest.approx(direct[name]["value"], rel=1e-12)
    assert stored["fd"]["reference"]["name"] == "thirty"
    assert stored["fd"]["reference"]["num_images"] == 30
    with np.load(path) as file:
        np.testing.assert_allclose(file["mu"], pixels(REAL).mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(file["sigma"], np.cov(pixels(REAL), rowvar=False), rtol=1e-5, atol=1e-7)


def test_statistics_of_another_project_are_read(run, tmp_path, monkeypatch):
    """They do not say how their features were made, so a person has to."""
    path = npz(tmp_path / "theirs.npz", **statistics(pixels(REAL)))
    assert measured(run, reference=path)["fd"]["value"] == pytest.approx(measured(run)["fd"]["value"], rel=1e-4)
    with pytest.raises(UserError, match=r"^theirs.npz has statistics and not the features of its images, which"):
        measured(run, ["kid"], reference=path)
    monkeypatch.setattr("ddpm_jax.evaluation.comparison.extractor", lambda name, weights: of_pixels())
    with pytest.raises(
        UserError, match=r"^theirs.npz does not say how its features were made: say it, as in features="
    ):
        measured(run, reference=path, features="")
    few = npz(tmp_path / "few.npz", **statistics(pixels(REAL)[:, :9]))
    with pytest.raises(UserError, match=r"^few.npz has 9 features per image and these images have 64$"):
        measured(run, reference=few)
    with pytest.raises(UserError, match=r"^there is no metric 'fdi'; did you mean 'fd'\?$"):
        measured(run, ["fdi"], reference=path)


def test_the_file_of_adm_has_statistics_of_inception_and_images(tmp_path):
    known = {**statistics(pixels(REAL)), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    found = read_reference(npz(tmp_path / "virtual.npz", arr_0=REAL, **known))
    assert found.protocol == {"features": "inception", "protocol": "torch_fidelity"}
    np.testing.assert_array_equal(found.moments("spatial").cov, np.eye(3))
    np.testing.assert_array_equal(found.moments("pool").mean, known["mu"])


def test_the_statistics_in_a_file_with_images_count_for_their_own_features_alone(run, tmp_path):
    """The file of ADM has the statistics of 50,000 images and 10,000 of the images."""
    path = npz(
        tmp_path / "virtual.npz", arr_0=REAL, **statistics(0 * pixels(REAL)), mu_s=np.zeros(3), sigma_s=np.eye(3)
    )
    assert measured(run, reference=path)["fd"]["value"] == measured(run)["fd"]["value"]
    theirs = {"features": "inception", "protocol": "torch_fidelity"}
    like_theirs = of_pixels()._replace(protocol={**theirs, "weights": "ours"})
    extraction = Extraction({"theirs": (like_theirs, ["pool"])}, mesh=run.mesh)
    found = of_path(path)(extraction)["theirs"]
    np.testing.assert_array_equal(found.moments("pool").mean, np.zeros(64))
    assert found.features("pool").shape == (30, 64)


class Evil:
    """Unpickled, it would make a file."""

    def __reduce__(self):
        return (open, ("made_by_a_pickle", "w"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mu": np.zeros(64)}, "it has neither images"),
        ({"mu": np.zeros(64), "sigma": np.eye(63)}, r"mu and sigma must be \[D\] and \[D, D\]"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "of finite numbers"),
        (
            {"mu": np.array(Evil(), object), "sigma": np.eye(64)},
            r"reference.npz is damaged, or is not a .npz file of numbers: make it again",
        ),
        ({"mu": np.zeros(64), "sigma": np.eye(64), "about": "{"}, "is not a reference file"),
    ],
)
def test_a_damaged_reference_is_one_line_and_runs_nothing(run, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        measured(run, reference=npz(tmp_path / "reference.npz", **content))
    assert not (tmp_path / "made_by_a_pickle").exists()
    (tmp_path / "text.npz").write_text("mu")
    with pytest.raises(UserError, match=r"text.npz is damaged, or is not a .npz file of numbers"):
        measured(run, reference=tmp_path / "text.npz")
