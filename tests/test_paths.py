"""Paths: `~`, odd names, no home directory, a checkpoint in place of its run."""

import io
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.tiny import ROOT, arguments, save, tiny_config
from support.tiny import run as program

import ddpm_jax as dj
from ddpm_jax.data.tfds import TfdsImages, data_folder
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.plots import strips
from ddpm_jax.jobs import train
from ddpm_jax.runs.run import Run
from ddpm_jax.runtime import paths

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),  # ml_collections loads a config with it
]

SHORT = {"diffusion__num_timesteps": 4}


@pytest.fixture
def homeless(monkeypatch):
    """A container's user: no HOME, no entry in passwd."""

    def no_entry(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(pwd, "getpwnam", no_entry)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_compilation):
    """A run of random parameters at step 3."""
    return save(tmp_path_factory.mktemp("runs") / "my run", tiny_config(**SHORT), steps=(3,))


def test_a_home_directory_is_expanded_and_all_else_stays(home):
    root = pwd.getpwuid(0)
    assert paths.expanded("~") == str(home)
    assert paths.expanded("~/a b/") == f"{home}/a b/"
    assert paths.expanded(f"~{root.pw_name}/x") == f"{root.pw_dir}/x"
    for same in ("a/~/b", "./~", "a", "/a/b/", "2026-01-01T10:00:00", "C:x", "./gs://x", "a b"):
        assert paths.expanded(same) == same
    assert paths.local_path(Path("~/x")) == home / "x"
    Image.new("L", (8, 8)).save(home / "a.png")
    assert len(dj.ImageFolder("~", size=8)) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gs://bucket/x", "this is read from a disk only: mount the bucket, and give the path of the mounted folder"),
        ("S3://bucket/x", "only gs:// buckets are used directly: mount the bucket, and give the path of the mounted f"),
        ("abc+d://x", "only gs://"),
        (Path("s3://bucket/x"), "only gs://"),
        ("hf://org/model", "download it, and give the path of the download"),
        ("https://host/x.pt", "download it"),
        ("file:///tmp/x", "write only the path, beginning with its first /"),
        ("~nobody_of_that_name/x", "there is no user nobody_of_that_name; write the whole path, or ./~nobody_of_that"),
    ],
)
def test_what_cannot_be_used_is_one_line(path, message):
    with pytest.raises(UserError) as caught:
        paths.local_path(path)
    assert str(caught.value).startswith(f"cannot use {path}: {message}")


def test_an_empty_path_and_a_long_one_are_one_short_line():
    with pytest.raises(UserError, match=r"^cannot use an empty path"):
        paths.local_path("")
    with pytest.raises(UserError) as caught:
        paths.local_path("s3://" + "x" * 5000)
    assert len(str(caught.value)) < 300


@pytest.mark.slow
def test_the_programs_write_below_the_home_directory(home):
    """As `--out=~/x.png`, which bash leaves as it is."""
    save(home / "run", tiny_config(**SHORT))
    drawn = program("sample.py", "--workdir=~/run", "--out=~/x.png", "--trajectory=~/x.gif", "--num_images=1")
    assert drawn.status == 0, drawn.err
    trained = program("train.py", "--workdir=~/other", *arguments(tiny_config(**SHORT, train__num_steps=1)))
    assert trained.status == 0, trained.err
    converted = program("ddpm_jax/convert/__main__.py", "~/run", "--to=diffusers", "--out=~/weights")
    assert converted.status == 0, converted.err
    assert sorted(path.name for path in home.iterdir()) == ["other", "run", "weights", "x.gif", "x.png"]
    assert list(Path().iterdir()) == []


def test_a_configuration_file_may_lie_below_the_home_directory(home):
    outcome = program("train.py", "--config=~/mine.py", "--workdir=run")
    assert outcome.err.startswith(f"error: there is no configuration file '{home}/mine.py'")


@pytest.mark.slow
def test_commands_in_messages_run_as_they_stand(home):
    """Their paths have spaces and quotes."""
    workdir = home / "it's my run"
    outcome = program("train.py", f"--workdir={workdir}", *arguments(tiny_config(**SHORT, train__num_steps=1)))
    words = shlex.split(outcome.out.splitlines()[-1])
    python, script, *flags = words
    assert (python, Path(script).resolve()) == ("python", ROOT / "sample.py")
    assert flags == [f"--workdir={workdir}", "--num_images=64", "--seed=1"]
    with pytest.raises(UserError) as caught:
        Run(home / "no run")
    assert shlex.split(str(caught.value).partition("train one with: ")[2])[2:] == [f"--workdir={home / 'no run'}"]
    (home / "data sets").mkdir()
    with pytest.raises(UserError) as caught:
        TfdsImages("mnist", "train", data_dir="~/data sets", size=8)
    command = str(caught.value).partition("run `")[2].strip("`")
    assert shlex.split(command)[-2:] == ["mnist", f"--data_dir={home / 'data sets'}"]


@pytest.mark.parametrize("level", ["checkpoints", "checkpoints/3", "checkpoints/3/state"])
def test_a_checkpoint_in_place_of_its_run_is_recognised(trained, level, monkeypatch):
    what = "the checkpoints folder" if level == "checkpoints" else "a checkpoint"
    told = rf"/{level} is {what} of the run in {trained}: give '{trained}', whose newest checkpoint is used$"
    for refused in (Run, lambda path: train.train(tiny_config(), path), lambda path: dj.import_weights(path, "x")):
        with pytest.raises(UserError, match=told):
            refused(trained / level)
    for command in (
        ["sample.py", f"--workdir={trained / level}"],
        ["sample.py", f"--workdir={trained}", f"--classifier_workdir={trained / level}"],
        ["evaluate.py", f"--workdir={trained / level}"],
        ["train.py", f"--workdir={trained / level}/"],
        ["ddpm_jax/convert/__main__.py", trained / level, "--to=diffusers", f"--out={trained.parent / 'new'}"],
    ):
        outcome = program(*command)
        assert (outcome.status, outcome.err.count("\n")) == (1, 1)
        assert f"of the run in {trained}: give '{trained}'" in outcome.err
    monkeypatch.chdir(trained / level)
    up = "/".join([".."] * (level.count("/") + 1))
    with pytest.raises(UserError, match=rf"^\. is {what} of the run in {up}: give {up},"):
        Run(".")


def test_a_folder_that_is_called_checkpoints_is_a_folder_like_others(tmp_path):
    for run in ("checkpoints/7", "checkpoints/mine", "checkpoints"):
        assert paths.run_folder(tmp_path / run) == tmp_path / run
    save(tmp_path / "checkpoints" / "7", tiny_config(**SHORT))
    assert Run(tmp_path / "checkpoints" / "7").step == 1
    assert paths.run_folder(tmp_path / "checkpoints" / "8") == tmp_path / "checkpoints" / "8"


def test_a_run_whose_name_is_no_text_is_refused_before_any_work(tmp_path):
    """The bytes of another encoding, which the library of the checkpoints cannot open."""
    workdir = tmp_path / os.fsdecode(b"r\xfcn")
    for refused in (Run, lambda path: train.train(tiny_config(), path)):
        with pytest.raises(
            UserError, match=r"^checkpoints cannot be stored in .*/r\\udcfcn, because its name is not UTF-8: re"
        ):
            refused(workdir)
    assert not workdir.exists()


def test_files_of_any_name_are_written_and_told(trained, tmp_path):
    place = tmp_path / os.fsdecode(b"p\xfc\n\x1b")
    outcome = program("sample.py", f"--workdir={trained}", f"--out={place}/x.png", "--num_images=1")
    assert outcome.status == 0, outcome.err
    assert (place / "x.png").exists()
    strips(np.zeros((1, 1, 8, 8, 1)), columns=[place.name], rows=["\udcff"]).savefig(place / "strips.png")
    dj.export_diffusers(Run(trained), place / "weights\udcff")
    card = (place / "weights\udcff" / "README.md").read_text()
    assert 'from_pretrained("weights\\udcff")' in card


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_a_terminal_without_the_characters_of_a_name_shows_their_codes(monkeypatch, encoding):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    paths.show_unprintable_by_code()
    print("r\u00fcn \u4e16 \udcff")
    print("r\u00fcn \u4e16 \udcff", file=sys.stderr)
    for stream in (out, err):
        stream.flush()
        written = stream.buffer.getvalue()
        assert written.endswith(b"\\udcff\n")
        assert (b"\\u4e16" in written) == (encoding != "utf-8")


def test_a_program_on_an_ascii_terminal_ends_well():
    code = (
        "from ddpm_jax.commands import cli; cli.run(lambda: print('r\u00fcn \\udcff'), module='ddpm_jax.commands.cli')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"r\\xfcn \\udcff\n", b"")


def test_without_a_home_directory_there_is_no_cache_and_a_line_for_what_needs_one(homeless, tmp_path, monkeypatch):
    assert paths.cache_folder() is None
    with pytest.raises(UserError, match=r"^cannot use ~/x: there is no home directory; write the whole path, or \./~ "):
        paths.local_path("~/x")
    with pytest.raises(
        UserError, match=r"^there is no home directory in which prepared data sets could be: give their"
    ):
        data_folder()
    assert data_folder("data") == "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert paths.cache_folder() == tmp_path / "cache" / "ddpm_jax"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert paths.cache_folder() is None


def test_the_cache_lies_in_the_home_directory(home, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert paths.cache_folder() == home / ".cache" / "ddpm_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    assert paths.cache_folder() == home / ".cache" / "ddpm_jax"


@pytest.mark.slow
def test_a_user_without_a_home_directory_draws_and_measures(trained, tmp_path):
    """In a namespace of its own, as in a container that is started under any number."""
    user = ["unshare", "--user", "--map-user=12345"]
    bare = ["env", "-u", "HOME", "-u", "XDG_CACHE_HOME", "-u", "USER", "-u", "LOGNAME"]
    if not shutil.which("unshare") or subprocess.run([*user, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces (unshare --user)")
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    environment = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    command = [*user, *bare, sys.executable, "evaluate.py", f"--workdir={workdir}", "--metrics=bpd", "--num_images=8"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "bits/dim" in result.stdout
    assert (workdir / "evaluation" / "bpd.png").exists()


@pytest.mark.parametrize("name", ["./~", "./~root/run", "./~nobody_of_this_name", "./gs://bucket", "plain"])
def test_a_path_means_the_same_when_it_is_handled_again(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    once = paths.local_path(name)
    assert paths.local_path(once) == paths.run_folder(once) == once
    assert once.absolute() == tmp_path / Path(name.removeprefix("./"))
