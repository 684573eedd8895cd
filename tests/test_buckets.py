"""A run in a bucket is the run on a disk, bit for bit: trained, killed, resumed, sampled, measured, converted."""

import logging
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image
from support.tiny import ROOT, arguments, same, save, tiny_config, untimed
from support.tiny import run as program

import ddpm_jax as dj
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime import buckets, paths, storage
from ddpm_jax.training.log import read_log
from ddpm_jax.training.restoring import saved_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = {"diffusion__num_timesteps": 4, "log__preview_every": 4, "log__preview_steps": 2}


@pytest.fixture
def place(bucket, request):
    """A folder of its own in the bucket."""
    return f"{bucket}/{request.node.name}"


@pytest.mark.slow
def test_the_commands_of_the_documentation_work(place, tmp_path):
    """With a smaller network and fewer steps; the line at the end names the checkpoint where it is."""
    page = (ROOT / "docs" / "scale.md").read_text().partition("## Runs and data in a bucket")[2]
    commands = page.partition("```sh\n")[2].partition("```")[0].replace("\\\n", "").replace("gs://BUCKET", place)
    train_command, sample_command = map(str.split, commands.splitlines())
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        storage.write_bytes(paths.any_path(f"{place}/photos/{i}.png"), (tmp_path / f"{i}.png").read_bytes())
    small = [
        "model.channels=8",
        "model.channel_mult=(1,)",
        "model.num_res_blocks=1",
        "model.norm_groups=8",
        "train.num_steps=1",
    ]
    small += ["train.batch_size=8", "diffusion.num_timesteps=4", "sample.num_steps=2", "log.preview_images=1"]
    shown = program(*train_command[1:], *(f"--config.{setting}" for setting in small))
    assert shown.status == 0, shown.err
    checkpoint = shown.out.partition("checkpoint in ")[2].partition(";")[0]
    assert checkpoint == f"{place}/runs/imagenet64/checkpoints/t1/1"
    assert storage.is_dir(paths.any_path(checkpoint))
    shown = program(*sample_command[1:], "--num_images=2")
    assert shown.status == 0, shown.err
    assert len(content(f"{place}/samples")) >= 2


def content(folder):
    """The files below a folder by their relative names."""
    folder = paths.any_path(folder)
    return {str(path.relative_to(folder)): storage.read_bytes(path) for path, _ in storage.files_below(folder)}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_that_on_a_disk(place, tmp_path):
    """Trained in two starts, with previews; sampled to a folder, an array and a grid; measured."""
    for steps in (6, 8):
        config = tiny_config(**CONFIG, train__num_steps=steps)
        for workdir in (tmp_path / "run", f"{place}/run"):
            assert train.train(config, workdir).step == steps
    disk, cloud = Run(tmp_path / "run"), Run(f"{place}/run")
    assert (disk.step, disk.digest()) == (cloud.step, cloud.digest())
    assert same(disk.params, cloud.params)
    assert saved_steps(f"{place}/run/checkpoints") == saved_steps(tmp_path / "run/checkpoints")
    assert untimed(f"{place}/run") == untimed(tmp_path / "run")
    assert [line["step"] for line in untimed(f"{place}/run")] == [*range(1, 9)]
    assert len(content(f"{place}/run/previews")) == 4
    assert content(f"{place}/run/previews") == content(tmp_path / "run/previews")
    assert content(f"{place}/run/tensorboard")
    for out in ("folder/", "grid.png", "array.npz", "chain.gif"):
        draw = dj.sample_trajectory if out.endswith("gif") else dj.sample_run
        for run, where in ((disk, tmp_path), (cloud, place)):
            draw(run, f"{where}/{out}", num_images=3, seed=1)
    assert content(f"{place}/folder") == content(tmp_path / "folder")
    assert {*content(f"{place}/folder")} == {"000000.png", "000001.png", "000002.png", "sampling.json"}
    for out in ("grid.png", "chain.gif"):
        assert storage.read_bytes(paths.any_path(f"{place}/{out}")) == (tmp_path / out).read_bytes()
    with storage.local_file(paths.any_path(f"{place}/array.npz")) as copy, np.load(copy) as one:
        assert np.array_equal(one["arr_0"], np.load(tmp_path / "array.npz")["arr_0"])
    measured = [dj.evaluate(run, ["fd"], num_images=20, features="pixels", seed=2)["fd"] for run in (disk, cloud)]
    assert measured[0]["value"] == measured[1]["value"]
    assert {"fd.json", "results.jsonl"} <= content(f"{place}/run/evaluation").keys()


def test_an_object_is_read_in_one_request(place, monkeypatch):
    """If its size were asked for first, an object that is replaced meanwhile would lose its end."""
    path = paths.any_path(f"{place}/x")
    storage.write_bytes(path, b"abc")
    system, requests = type(buckets.gcs()), []
    call = system._call

    async def counted(self, *args, **options):
        requests.append(args)
        return await call(self, *args, **options)

    monkeypatch.setattr(system, "_call", counted)
    assert storage.read_bytes(path) == b"abc"
    assert len(requests) == 1, requests


def test_a_folder_of_samples_in_a_bucket_is_continued(place, tmp_path):
    run = Run(save(f"{place}/run", tiny_config(**CONFIG)))
    dj.sample_run(run, f"{place}/samples", num_images=2, seed=0)
    first = content(f"{place}/samples")
    storage.write_bytes(paths.any_path(f"{place}/samples/000001.png"), first["000001.png"][:-9])  # cut off
    dj.sample_run(run, f"{place}/samples", num_images=3, seed=0)
    later = content(f"{place}/samples")
    assert {name: later[name] for name in first} == first
    assert later.keys() - first.keys() == {"000002.png"}
    with pytest.raises(UserError, match=r"/samples holds other samples: seed "):
        dj.sample_run(run, f"{place}/samples/", num_images=3, seed=1)
    with pytest.raises(UserError, match=r"/run holds other files; choose an empty or new folder$"):
        dj.sample_run(run, f"{place}/run/", num_images=3, seed=1)


def test_the_programs_take_addresses(place, tmp_path):
    """Convert out and in, sample by the default name, and edit pictures; a run in a bucket is named by its address."""
    save(f"{place}/run", tiny_config(**CONFIG, name="run"))
    for command, said in (
        (["sample.py", f"--workdir={place}/run", "--num_images=2"], f"wrote {place}/run/samples_seed0.png"),
        (["sample.py", f"--workdir={place}/run", "--num_images=2", f"--out={place}/two/"], f"wrote {place}/two "),
        (
            ["ddpm_jax/convert/__main__.py", f"{place}/run", "--to=diffusers", f"--out={place}/out"],
            f"wrote {place}/out",
        ),
        (["ddpm_jax/convert/__main__.py", f"{place}/out", f"--out={place}/in"], f"--workdir={place}/in"),
    ):
        outcome = program(*command)
        assert outcome.status == 0, outcome.err
        assert said in outcome.out
    assert same(Run(f"{place}/run").params, Run(f"{place}/in").params)
    assert {path.rpartition("/")[2] for path in content(f"{place}/out")} >= {"model_index.json", "README.md"}
    again = program("ddpm_jax/convert/__main__.py", f"{place}/out", f"--out={place}/in")
    assert again.err == f"error: {place}/in exists already; choose a new name\n"
    missing = program("sample.py", f"--workdir={place}/rum")
    assert missing.err.startswith(
        f"error: there is no run in {place}/rum; did you mean {place}/run? Or train one with: "
    )
    inside = program("sample.py", f"--workdir={place}/run/checkpoints/t1/1")
    assert f"/1 is a checkpoint of the run in {place}/run: give {place}/run, whose newest" in inside.err


@pytest.mark.slow
def test_a_run_may_be_copied_from_a_disk_to_a_bucket_and_back(place, tmp_path):
    """By any program that copies files; it goes on in its new place, and the log has every step once."""
    train.train(tiny_config(**CONFIG, train__num_steps=4), tmp_path / "a")
    train.train(tiny_config(**CONFIG, train__num_steps=8), tmp_path / "whole")
    for name, data in content(tmp_path / "a").items():
        storage.write_bytes(paths.any_path(f"{place}/b/{name}"), data)
    assert Run(f"{place}/b").step == 4
    train.train(tiny_config(**CONFIG, train__num_steps=6), f"{place}/b")
    assert saved_steps(f"{place}/b/checkpoints") == [6, 4]
    for name, data in content(f"{place}/b").items():
        storage.write_bytes(tmp_path / "c" / name, data)
    assert Run(tmp_path / "c").step == 6
    assert [line["step"] for line in read_log(tmp_path / "c")] == [*range(1, 7)]
    train.train(tiny_config(**CONFIG, train__num_steps=8), tmp_path / "c")
    assert saved_steps(tmp_path / "c/checkpoints") == [8, 6]
    assert untimed(tmp_path / "c") == untimed(tmp_path / "whole")
    assert same(Run(tmp_path / "c").params, Run(tmp_path / "whole").params)
    assert not (tmp_path / "c/checkpoints/manifest.json").exists()
    assert not list((tmp_path / "c/log").iterdir())


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_kept_and_the_one_before_it_is_taken(place, capfd):
    workdir = save(f"{place}/run", tiny_config(**CONFIG), steps=(2, 4))
    files = storage.files_below(paths.any_path(f"{workdir}/checkpoints/t1/4/state"))
    halves = {path: storage.read_bytes(path)[: size // 2] for path, size in files if "/d/" in str(path)}  # of arrays
    for path, half in halves.items():
        storage.write_bytes(path, half)
    assert Run(workdir).step == 2
    assert f"warning: checkpoint {workdir}/checkpoints/t1/4 is damaged" in capfd.readouterr().err
    assert train.train(tiny_config(**CONFIG, train__num_steps=4), workdir).step == 4
    assert f"the damaged checkpoint is kept in {workdir}/checkpoints/t1/4" in capfd.readouterr().err
    assert saved_steps(f"{workdir}/checkpoints") == [4, 2]
    assert {path: storage.read_bytes(path) for path in halves} == halves
    assert Run(workdir).step == 4


@pytest.mark.slow
def test_images_of_a_folder_in_a_bucket_are_those_of_the_folder(place, tmp_path, monkeypatch):
    """Trained on with workers, measured, and downloaded once; copies beyond the limit are removed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "photos" / f"{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    (tmp_path / "photos" / ".hidden").write_text("ignored")
    for name, data in content(tmp_path / "photos").items():
        storage.write_bytes(paths.any_path(f"{place}/photos/{name}"), data)
    disk, cloud = (dj.ImageFolder(root, size=8, channels=1) for root in (tmp_path / "photos", f"{place}/photos"))
    assert (cloud.paths, cloud.class_names, cloud.passed_over) == (disk.paths, disk.class_names, disk.passed_over)
    assert all(np.array_equal(disk[i]["image"], cloud[i]["image"]) for i in range(24))
    assert [disk[i]["label"] for i in range(24)] == [cloud[i]["label"] for i in range(24)]
    downloads = []
    real = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda path: downloads.append(path) or real(path))
    assert all(np.array_equal(disk[i]["image"], cloud[i]["image"]) for i in range(24))
    assert downloads == []
    few = dj.ImageFolder(f"{place}/photos", size=8, channels=1, cache_gib=800 / 2**30)
    for i in range(24):
        few[i]
    kept = list((tmp_path / "cache/ddpm_jax/images").iterdir())
    assert 0 < sum(path.stat().st_size for path in kept) <= 800
    folder = {"data__source": "folder", "data__on_device": False, "data__random_flip": False}
    states = [
        train.train(tiny_config(**CONFIG, **folder, data__path=str(root), train__num_steps=3), tmp_path / name)
        for name, root in (("disk", tmp_path / "photos"), ("cloud", f"{place}/photos"))
    ]
    assert same(states[0].params, states[1].params)
    with pytest.raises(UserError, match=r"^the image folder gs://.*/nothing does not exist: give the path of a folder"):
        dj.ImageFolder(f"{place}/nothing", size=8)


def start(*args):
    """The training program in a process of its own."""
    command = [sys.executable, "train.py", *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_and_resumed_is_that_on_a_disk(place, tmp_path):
    """Killed six times, at moments that are spread over a save; the next start waits for nobody."""
    config = tiny_config(**CONFIG, train__num_steps=60)
    train.train(config, tmp_path / "run")
    for i in range(6):
        process = start(f"--workdir={place}/run", *arguments(config))
        deadline, begun = time.monotonic() + 600, len(read_log(f"{place}/run"))
        while len(read_log(f"{place}/run")) < begun + 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.15 * i)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(f"--workdir={place}/run", *arguments(config))
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert untimed(f"{place}/run") == untimed(tmp_path / "run")
    assert same(Run(f"{place}/run").params, Run(tmp_path / "run").params)
    kept = {name.split("/")[1] for name in content(f"{place}/run/checkpoints") if "/" in name}
    assert kept == {str(step) for step in saved_steps(f"{place}/run/checkpoints")}


def test_a_listing_that_lags_hides_no_checkpoint(place, monkeypatch):
    workdir = save(f"{place}/run", tiny_config(**CONFIG), steps=(2, 4))
    monkeypatch.setattr(storage, "names", lambda folder: [])
    assert saved_steps(f"{workdir}/checkpoints") == [4, 2]


def test_a_bucket_that_cannot_be_listed_is_one_line_with_a_remedy(place, monkeypatch, capfd):
    """The libraries themselves print nothing."""
    folder = paths.any_path(f"{place}/run/checkpoints")
    storage.names(folder)
    from gcsfs import retry  # not before: it reads the environment of the bucket while it is imported

    async def refused(self, *args, **options):
        raise retry.HttpError({"code": 403, "message": "Forbidden"})

    monkeypatch.setattr(type(buckets.gcs()), "_request", retry.retry_request(retries=2)(refused))
    with pytest.raises(UserError, match=r"^cannot list the checkpoints in gs://.*; fix the cause, and start again$"):
        saved_steps(folder)

    async def forbidden(self, *args, **options):
        raise OSError("Forbidden: b/bucket/o")  # what gcsfs makes of this answer

    monkeypatch.setattr(type(buckets.gcs()), "_request", forbidden)
    openings = (Run, partial(dj.ImageFolder, size=8), partial(train.train, tiny_config()))
    for opening in openings:  # none of which says that it is absent
        with pytest.raises(UserError, match=r"^cannot read gs://.*: Forbidden: b/bucket/o; make it re"):
            opening(f"{place}/run")
    assert "Traceback" not in capfd.readouterr().err
    assert not any(logging.getLogger(name).isEnabledFor(logging.ERROR) for name in ("gcsfs", "fsspec.prefetcher"))
