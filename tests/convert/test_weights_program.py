"""The program: a run of foreign weights is drawn from, trained on and written again; mistakes are one line."""

import json
import shlex

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from support.tiny import TINY, run, save, tiny_config
from support.weights import GOLDEN

from ddpm_jax.runs.run import Run
from ddpm_jax.training.restoring import saved_steps

CONVERT = "ddpm_jax/convert/__main__.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A diffusers folder: a run of ours, without a trace of where it was trained."""
    path = tmp_path_factory.mktemp("foreign")
    save(path / "run", tiny_config())
    assert run(CONVERT, path / "run", "--to=diffusers", f"--out={path / 'out'}").status == 0
    return path / "out"


@pytest.mark.slow
def test_a_converted_run_is_drawn_from_trained_on_and_written_again(folder, tmp_path, quick_compilation):
    workdir = tmp_path / "a run"
    converted = run(CONVERT, folder, f"--out={workdir}")
    assert converted.status == 0, converted.err
    assert f"wrote {workdir}: " in converted.out
    provenance = json.loads((workdir / "provenance.json").read_text())
    assert [file["name"] for file in provenance["files"]] == [
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    printed = [shlex.split(line) for line in converted.out.splitlines() if line.startswith("  python ")]
    assert [words[1] for words in printed] == ["sample.py", "evaluate.py", "train.py"]
    assert all(f"--workdir={workdir}" in words for words in printed)
    drawn = run("sample.py", f"--workdir={workdir}", "--sampler=ddim", "--num_steps=2", "--num_images=2")
    assert drawn.status == 0, drawn.err
    assert "step 0, ema parameters" in drawn.out

    (tmp_path / "pictures").mkdir()
    for i in range(8):
        Image.fromarray(np.full((8, 8), 30 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    program, *flags = shlex.split(converted.out.split("train it further with:\n  python ")[1])
    flags = [flag.replace("FOLDER", str(tmp_path / "pictures")) for flag in flags]
    short = {key: TINY[key] for key in TINY if key.startswith(("train.", "checkpoint.", "log."))} | {
        "train.num_steps": 2
    }
    trained = run(program, *flags, *(f"--config.{key}={value}" for key, value in short.items()))
    assert trained.status == 0, trained.err
    program, *flags = shlex.split(converted.out.split("measure it with:\n  python ")[1].splitlines()[0])
    flags = [flag.replace("FOLDER", str(tmp_path / "pictures")) for flag in flags]
    measured = run(program, *flags, "--num_images=2")
    assert measured.status == 0, measured.err
    assert "bits/dim" in measured.out
    assert "resuming from step 0" in trained.out
    assert saved_steps(workdir / "checkpoints") == [2, 0]
    before = safetensors.numpy.load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    again = run(CONVERT, workdir, "--to=diffusers", "--params=raw", f"--out={tmp_path / 'out'}")
    assert again.status == 0, again.err
    after = safetensors.numpy.load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert after.keys() == before.keys()
    moved = [np.abs(after[name] - before[name]).max() for name in before]
    assert 0 < max(moved) < 1e-3  # two steps of the warm-up


@pytest.mark.slow
def test_a_converted_classifier_guides(tmp_path, quick_compilation):
    out = run(CONVERT, GOLDEN / "improved_uncond.safetensors", f"--out={tmp_path / 'a'}", "--image_size=8",
              "--num_timesteps=1000", "--schedule=linear")  # fmt: skip
    assumed = "num_heads=4, time_scale=1.0, attention_order=interleaved"
    assert f"assumed, because the weights do not show it: {assumed}" in out.out
    out = run(CONVERT, GOLDEN / "classifier.safetensors", f"--out={tmp_path / 'b c'}", "--head_channels=32",
              "--schedule=linear")  # fmt: skip
    assert f"--classifier_workdir={tmp_path / 'b c'}" in shlex.split(out.out)
    guided = ["--labels=3", "--num_steps=2", "--num_images=2", f"--classifier_workdir={tmp_path / 'b c'}"]
    drawn = run("sample.py", f"--workdir={tmp_path / 'a'}", *guided)
    assert drawn.status == 0, drawn.err
    assert Run(tmp_path / "b c").config.labels.num_classes == 10


MISTAKES = {
    "nothing": (["--out={tmp}/run"], "the file or folder to convert is missing; see --help"),
    "two": (["a", "b", "--out={tmp}/run"], "'b' is not a flag"),
    "no out": (["a"], "--out is missing: The directory to write: a run or"),
    "no file": (["{tmp}/nothing.pt", "--out={tmp}/run"], "there is no file"),
    "no model": (["{tmp}/empty", "--out={tmp}/run"], "contains no diffusers model: it needs config.json"),
    "no run": (["{tmp}/empty", "--to=diffusers", "--out={tmp}/run"], "has no checkpoint yet"),
    "run": (
        ["{tmp}/run", "--out={tmp}/out"],
        "run is a run already, which sample.py can draw from: export_diffusers, or --to=diffusers, converts it into a",
    ),
    "foreign out": (
        ["{tmp}/foreign", "--to=diffusers", "--out={tmp}/out"],
        "foreign holds published weights and not a run: leave --to=diffusers out to make a run from them",
    ),
    "file out": (
        ["{tmp}/other.safetensors", "--to=diffusers", "--out={tmp}/out"],
        "published weights and not a run: leave",
    ),
    "truncated": (["{tmp}/broken.safetensors", "--out={tmp}/run"], "not a complete file of weights"),
    "unknown": (
        ["{tmp}/other.safetensors", "--out={tmp}/run"],
        "weights of an unknown network: its first tensors are a",
    ),
    "heads": (["{golden}/improved_uncond.safetensors", "--out={tmp}/run", "--image_size=8", "--num_heads=5"], "divide"),
    "timesteps": (
        ["{golden}/classifier.safetensors", "--out={tmp}/run", f"--num_timesteps={10**13}"],
        "not an integer in the range [1, 1000000]",
    ),
    "long": ([f"{{tmp}}/{300 * 'a'}", "--out={tmp}/run"], "File name too long"),
    "long run": ([f"{{tmp}}/{300 * 'a'}", "--to=diffusers", "--out={tmp}/run"], "File name too long"),
    "long out": (["{golden}/classifier.safetensors", f"--out={{tmp}}/{300 * 'a'}"], "File name too long"),
    "params": (["{tmp}/diffusers", "--out={tmp}/run", "--params=raw"], "--params applies only with --to=diffusers"),
    "deep": (["{tmp}/nothing.pt", "--out={tmp}/a/b/run"], "there is no file"),
    "full first": (["{tmp}/nothing.pt", "--out={tmp}"], "exists already"),
    "full first out": (["{tmp}/empty", "--to=diffusers", "--out={tmp}"], "exists already"),
    "taken": (["{golden}/improved_uncond.safetensors", "--out={tmp}/empty", "--image_size=8"], None),
    "full": (["{golden}/classifier.safetensors", "--out={tmp}", "--head_channels=32"], "exists already"),
    "foreign": (["{tmp}/foreign", "--out={tmp}/run"], "time_embedding_type='fourier' is not supported"),
    "needless": (["{tmp}/diffusers", "--out={tmp}/run", "--num_heads=2"], "num_heads=2 does not apply to diffusers"),
    "hint": (
        ["{tmp}/empty", "--to=diffusers", "--out={tmp}/run", "--num_heads=2"],
        "--num_heads cannot be combined with --to=diffusers",
    ),
    "misfit": (["{tmp}/diffusers", "--out={tmp}/run"], "diffusers does not fit the network: missing: "),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_are_one_line_and_leave_nothing(mistake, tmp_path):
    arguments, message = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes((GOLDEN / "classifier.safetensors").read_bytes()[:100_000])
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "other.safetensors")
    for name, settings in {"foreign": {"time_embedding_type": "fourier"}, "diffusers": {"sample_size": 32}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(settings))
        safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / name / "diffusion_pytorch_model.safetensors")
    if mistake == "run":
        save(tmp_path / "run", tiny_config())
    before = set(tmp_path.rglob("*"))
    outcome = run(CONVERT, *(argument.format(tmp=tmp_path, golden=GOLDEN) for argument in arguments))
    if message is None:  # an empty folder is as good as a new one
        assert outcome.status == 0, outcome.err
        return
    assert outcome.status == 1
    error = [line for line in outcome.err.splitlines() if line.strip()]
    assert error[-1].startswith("error: ")
    assert message in error[-1]
    assert "Traceback" not in outcome.err
    assert set(tmp_path.rglob("*")) == before
