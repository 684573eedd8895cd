"""Addresses in place of paths: buckets, mounted or not, and what cannot be used, refused before any work."""

from pathlib import Path

import numpy as np
import pytest
from support.tiny import run as program
from support.tiny import save, tiny_config

import ddpm_jax as dj
from ddpm_jax.data.tfds import TfdsImages
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime import buckets, mounts, paths

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # ml_collections loads a config with it
]

SHORT = {"diffusion__num_timesteps": 4}
BUCKET = "s3://bucket/x"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_compilation):
    """A run of random parameters at step 3."""
    return save(tmp_path_factory.mktemp("runs") / "my run", tiny_config(**SHORT), steps=(3,))


DOORS = {
    "Run": lambda path, run: Run(path),
    "train": lambda path, run: train.train(tiny_config(), path),
    "train's data": lambda path, run: train.train(tiny_config(data__source="folder", data__path=path), "run"),
    "sample_run": lambda path, run: dj.sample_run(run, path, num_images=1, seed=0),
    "sample_trajectory": lambda path, run: dj.sample_trajectory(run, path, num_images=1, seed=0),
    "interpolate": lambda path, run: dj.editing.interpolate(run, ["a.png", "b.png"], path),
    "interpolate's ends": lambda path, run: dj.editing.interpolate(run, [path, path], "x.png"),
    "read_picture": lambda path, run: dj.editing.read_picture(path, run.shape),
    "read_mask": lambda path, run: dj.editing.read_mask(path, run.shape),
    "read_log": lambda path, run: dj.read_log(path),
    "save_png": lambda path, run: dj.images.save_png(path, np.zeros((8, 8, 1), np.uint8)),
    "save_gif": lambda path, run: dj.images.save_gif(path, np.zeros((1, 8, 8, 1), np.uint8)),
    "import_weights": lambda path, run: dj.import_weights(path, "run"),
    "import_weights to": lambda path, run: dj.import_weights("weights.pt", path),
    "export_diffusers": lambda path, run: dj.export_diffusers(run, path),
    "ImageFolder": lambda path, run: dj.ImageFolder(path, size=8),
    "TfdsImages": lambda path, run: TfdsImages("mnist", "train", data_dir=path, size=8),
}


@pytest.mark.parametrize("door", DOORS)
def test_the_library_refuses_an_address_before_it_writes(door, trained, home, monkeypatch):
    run = Run(trained)
    monkeypatch.setattr(Run, "chain", None)
    with pytest.raises(UserError, match=r"^cannot use s3://bucket/x: only gs:// buckets are used directly: mount"):
        DOORS[door](BUCKET, run)
    assert [*Path().iterdir(), *home.iterdir()] == []


@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "--workdir=@"],
        ["train.py", "--workdir=run", "--config.data.source=folder", "--config.data.path=@"],
        ["train.py", "--workdir=run", "--config=@"],
        ["sample.py", "--workdir=@"],
        ["sample.py", "--workdir=run", "--out=@"],
        ["sample.py", "--workdir=run", "--trajectory=@"],
        ["sample.py", "--workdir=run", "--classifier_workdir=@"],
        ["sample.py", "--workdir=run", "--inpaint=@", "--mask=m.png"],
        ["sample.py", "--workdir=run", "--inpaint=m.png", "--mask=@"],
        ["sample.py", "--workdir=run", "--interpolate=a.png,@"],
        ["evaluate.py", "--workdir=@"],
        ["evaluate.py", "--workdir=run", "--data_path=@"],
        ["ddpm_jax/convert/__main__.py", "@", "--out=run"],
        ["ddpm_jax/convert/__main__.py", "weights.pt", "--out=@"],
    ],
)
def test_the_programs_refuse_an_address_in_one_line_before_any_work(command, home, monkeypatch):
    monkeypatch.setattr("ddpm_jax.runs.run.Run.__init__", lambda self, *args, **options: paths.run_folder(args[0]))
    outcome = program(*(argument.replace("@", BUCKET) for argument in command))
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert "cannot use s3://bucket/x: only gs:// buckets are used directly: mount the bucket" in outcome.err
    assert outcome.err.count("\n") == 1
    assert [*Path().iterdir(), *home.iterdir()] == []


def test_an_address_of_google_cloud_storage_has_one_form():
    for same in ("gs://bucket/a/b", "GS://bucket/a//b", Path("gs://bucket/a/b"), "gs://bucket/c/../a/b"):
        assert str(paths.any_path(same)) == "gs://bucket/a/b"
        assert paths.any_path(paths.any_path(same)) == paths.any_path(same)
    assert paths.expanded("gs://bucket/a/") == "gs://bucket/a/"
    with pytest.raises(
        UserError, match=r"^cannot use gs://bucket: give a name inside of the bucket, such as gs://buck"
    ):
        paths.run_folder("gs://bucket")


@pytest.mark.parametrize("name", ["run[1]", "run*", "why?/run"])
def test_a_name_that_is_a_pattern_in_a_bucket_is_refused(name):
    """To remove run[1] would remove run1."""
    with pytest.raises(UserError, match=r"^cannot use gs://bucket/.*: give a name without \* \? \[, which is a patt"):
        paths.any_path(f"gs://bucket/{name}")
    assert str(paths.any_path("gs://bucket/run{1}]")) == "gs://bucket/run{1}]"


def test_what_is_read_by_a_mount_says_so_before_any_work(home, capsys):
    """Prepared data sets, and files of published weights of feature networks."""
    from ddpm_jax.data.prepare import main
    from ddpm_jax.evaluation.published import INCEPTION, known_file

    message = (
        "cannot use gs://bucket/x: this is read from a disk only: mount the bucket, and give the path of the mount"
    )
    config = tiny_config(data__source="tfds", data__name="mnist", data__path="gs://bucket/x", data__on_device=False)
    for refused in (
        lambda: train.train(config, "run"),
        lambda: TfdsImages("mnist", "train", data_dir="gs://bucket/x", size=8),
        lambda: known_file(INCEPTION, "gs://bucket/x"),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        assert str(caught.value).startswith(message)
    assert main(["mnist", "--data_dir=gs://bucket/x"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert list(Path().iterdir()) == []


def test_a_bucket_without_its_packages_is_one_line(monkeypatch):
    monkeypatch.setattr(buckets, "_importable", lambda module: module == "gcsfs")
    with pytest.raises(UserError, match=r"^cannot use gs://b/x: buckets need the packages google-cloud-storage: pip i"):
        paths.any_path("gs://b/x")


@pytest.mark.parametrize(
    ("table", "folder", "expected"),
    [
        ("gcsfuse /gcs fuse.gcsfuse rw 0 0", "/gcs/bucket/my run", "gs://bucket/my run"),
        ("bucket /gcs/bucket fuse.gcsfuse rw 0 0", "/gcs/bucket/a/b", "gs://bucket/a/b"),
        ("/dev/sda /gcs ext4 rw 0 0", "/gcs/bucket/run", "/gcs/bucket/run"),
        ("bucket /mnt/my\\040data fuse.gcsfuse rw 0 0", "/mnt/my data/run", None),
        ("bucket /mnt/data fuse.gcsfuse rw 0 0", "/mnt/database/run", "/mnt/database/run"),
        ("s3fs /mnt/data fuse.s3fs rw 0 0", "/mnt/data/run", "/mnt/data/run"),
    ],
)
def test_a_mounted_bucket_is_recognised(table, folder, expected, tmp_path, monkeypatch, capsys):
    (tmp_path / "mounts").write_text(f"/dev/root / ext4 rw 0 0\n{table}\n")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")
    if expected is None:
        with pytest.raises(UserError, match=r"a lock holds for one host only: give its address, gs://BUCKET/NAME$"):
            paths.run_folder(folder)
    else:
        assert str(paths.run_folder(folder)) == expected
    noted = (
        "the mount /mnt/data is of the kind fuse.s3fs, whose locks other hosts may not see" in capsys.readouterr().out
    )
    assert noted == ("s3fs" in table)
