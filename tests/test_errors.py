"""Every mistake is one line on stderr, a status that is not zero, no traceback, and nothing half written."""

import ast
import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.tiny import arguments, tiny_config

from ddpm_jax.errors import (
    TransientError,
    UserError,
    causes,
    did_you_mean,
    first_line,
    lacks_space,
    listed,
    nearest,
    one_line,
    reading,
    shortened,
    writing,
)
from ddpm_jax.jobs import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parents[1]


def test_messages_are_one_short_line_that_keeps_its_beginning_and_its_end():
    name = "".join(f"{i:04d}" for i in range(25_000))
    message = str(UserError(f"cannot read {name}: no space;\n" + "and so on, " * 1000 + "free some space"))
    assert len(message) <= 480
    assert message.startswith("cannot read 00000001")
    assert message.endswith("and so on, free some space")
    assert str(UserError(f"cannot read {name}: free some space")) == (
        f"cannot read {name[:98]}...{name[-97:]}: free some space"
    )
    assert str(UserError("a\x1b[31m\n" + "b" * 150)) == r"a\x1b[31m\n" + "b" * 150
    assert str(UserError("w" * 200 + " " + "v" * 200)) == "w" * 200 + " " + "v" * 200  # two long paths


def test_causes_are_followed_to_the_first_unless_a_context_is_denied():
    first, handled, cause, last = ValueError("first"), KeyError(), OSError(), RuntimeError("last")
    last.__cause__, last.__context__ = cause, handled
    cause.__context__ = first
    assert list(causes(last)) == [last, cause, first]
    cause.__suppress_context__ = True
    assert list(causes(last)) == [last, cause]
    cause.__cause__ = last  # a circle
    assert list(causes(last)) == [last, cause]
    assert list(causes(None)) == []


@pytest.mark.parametrize(
    ("error", "lacks"),
    [
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EFBIG, "limit"), True),
        (OSError(errno.EACCES, "denied"), False),
        (ValueError(f"UNKNOWN: Error writing [OS error {errno.ENOSPC}: ENOSPC No space left on device]"), True),
        (ValueError(f"PERMISSION_DENIED: [OS error {errno.EACCES}: EACCES Permission denied]"), False),
        (TypeError(f"{errno.ENOSPC}"), False),
    ],
)
def test_only_a_disk_without_room_lacks_space(error, lacks):
    wrapped = RuntimeError("the save failed")
    wrapped.__cause__ = error
    assert lacks_space(wrapped) == lacks_space(error) == lacks


def test_long_texts_lose_their_middle_and_long_lists_their_end():
    assert (shortened("abcdefghij", 10), shortened("abcdefghijk", 10)) == ("abcdefghij", "abc...ijk")
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed(range(2008)).endswith("7 and 2,000 more")
    assert listed(iter(["a" * 61, "b"])) == f"{'a' * 28}...{'a' * 28}, b"
    assert listed([]) == ""


def test_a_mistyped_word_is_compared_with_what_is_known():
    known = ["Cat", "cart", "attributes/Smiling"]
    assert nearest("CAT", known) == ["Cat"]
    assert nearest("catr", known, most=2) == ["Cat", "cart"]
    assert nearest("Smiling", known) == ["attributes/Smiling"]
    assert nearest("catr", known, cutoff=0.95) == []
    assert did_you_mean("catr", known, most=2) == "did you mean 'Cat' or 'cart'?"
    assert did_you_mean("zebra", known) == ""
    assert did_you_mean("zebra", known, otherwise="there are 3") == "there are 3"


def test_one_module_looks_for_what_a_word_may_mean():
    files = [path for path in (ROOT / "ddpm_jax").rglob("*.py") if "difflib" in path.read_text()]
    assert [path.name for path in files] == ["errors.py"]


def test_what_the_disk_says_is_one_line_with_a_remedy():
    full = OSError(28, "No space left on device")
    with pytest.raises(UserError, match=r"^cannot write x: No space left on device; free the disk or choose another"):
        raise_in(writing("x"), full)
    with pytest.raises(UserError, match=r"^cannot write the log: odd; wait$"):
        raise_in(writing("the log", other="wait"), OSError("odd"))
    with pytest.raises(ValueError, match="other"):
        raise_in(writing("x"), ValueError("other"))
    for context, verb in ((writing("x"), "write"), (reading("x"), "read")):
        with pytest.raises(TransientError, match=rf"^cannot {verb} x: timed out; start the same command again$"):
            raise_in(context, OSError(errno.ETIMEDOUT, "timed out"))


def raise_in(context, error):
    """Raises an error within a context."""
    with context:
        raise error


def test_the_first_line_of_an_exception_is_short_and_without_the_specification():
    assert first_line(ValueError("\n full \nmore")) == "full"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x " * 10**6))) <= 480
    reading = "FAILED_PRECONDITION: Error reading: disk gone [tensorstore_spec='" + "x" * 1000
    assert first_line(ValueError(reading)) == "FAILED_PRECONDITION: Error reading: disk gone"
    assert one_line(7) == "7"


def test_messages_name_what_a_program_and_a_command_line_share():
    """Only the programs themselves speak of flags; a complete command may be part of any message."""
    programs = {*(ROOT / "ddpm_jax" / "commands").glob("*.py"), *(ROOT / "ddpm_jax").rglob("__main__.py")}
    commands = re.compile(r"(python|ddpm_jax|evaluate\.py|data\.prepare|export_diffusers|program\(|module\()")
    found = []
    for path in set((ROOT / "ddpm_jax").rglob("*.py")) - programs:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "UserError",
                "DivergedError",
                "_note_once",
            ):
                text = ast.unparse(node)
                if re.search(r"(^|[^\w-])--\w", text) and not commands.search(text):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text}")
    assert not found, "\n".join(found)


def run(*command):
    """A program as a person runs it."""
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train.py", "--config.train.batchsize=3"], "did you mean 'train.batch_size'?"),
        (["train.py", "--config.trian.batch_size=3"], "did you mean 'train.batch_size'?"),
        (["train.py", "config.seed=1"], "write --config.seed=1"),
        (["train.py", "--config.seed=1", "--config=configs/digits.py"], "put --config=FILE before --config.seed=1"),
        (["train.py", "--config.data.random_flip=maybe"], "flip=maybe: it must be True or False"),
        (["train.py", "--confg.x=2"], "did you mean --config?"),
        (["train.py", "--config.train.batch_size=abc"], "--config.train.batch_size=abc: it must be a whole number"),
        (["train.py", "--config.sample.eta=abc"], "--config.sample.eta=abc: it must be a number"),
        (["train.py", "--data.path=x"], "--data.path=x is a key of the configuration: write it as --config.data.path="),
        (["train.py", "--config=configs/cifr10.py"], "did you mean configs/cifar10.py?"),
        (["train.py", "--config=configs/xyz.py"], "the experiments are base, celeba, "),
        (["train.py", "--config={tmp}/celebs.py"], "did you mean --config=celeba?"),
        (["train.py", "--config={tmp}/emty.py"], "did you mean {tmp}/empty.py?"),
        (["train.py", "--config=cifr10"], "there is no experiment 'cifr10'; did you mean 'cifar10'?"),
        (["train.py", "--config", "{tmp}/own.py"], "there is no experiment 'bass'; did you mean 'base'?"),
        (["train.py", "--config.train.batch_size=63"], "use config.train.batch_size=64"),
        (["train.py", "--config=configs/own_images.py"], "folder of images with config.data.path=FOLDER"),
        (["train.py", "--config.seed=99999999999999999999"], "config.seed=99999999999999999999 must be at least 0"),
        (["train.py", "--config={tmp}/broken.py"], "cannot read the configuration file: SyntaxError: "),
        (["train.py", "--config={tmp}/empty.py"], "defines no function get_config()"),
        (["sample.py", "--workdir=no_such_run"], "python train.py --workdir=no_such_run"),
        (["sample.py", "--workdir=tests", "--num_images=0"], "--num_images=0"),
        (["evaluate.py", "--workdir=no_such_run"], "there is no run in no_such_run"),
    ],
)
def test_programs_say_what_to_do_in_one_line(command, message, tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(:")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "own.py").write_text("import ddpm_jax as dj\ndef get_config():\n  return dj.experiment('bass')")
    command = [argument.format(tmp=tmp_path) for argument in command]
    workdir = [] if any("workdir" in argument for argument in command) else [f"--workdir={tmp_path / 'run'}"]
    result = run(*command, *workdir)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("error: "), result.stderr
    assert message.format(tmp=tmp_path) in lines[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
def test_a_device_that_is_not_here_is_named_before_any_work(platform, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    if run("-c", "import jax; jax.devices()").returncode == 0:
        pytest.skip(f"there is a {platform} device here")
    result = run("train.py", f"--workdir={tmp_path / 'run'}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith(f"error: JAX_PLATFORMS={platform} asks for a device that this")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_help_names_the_flags_of_the_program_and_those_of_many_processes():
    shown = run("sample.py", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--num_images" in shown.stdout
    assert "--coordinator" in shown.stdout
    assert "--verbosity" not in shown.stdout
    assert "  python sample.py --workdir=DIR" in shown.stdout
    assert not re.search(r"\(default: the run's\)\.\s+\(default", shown.stdout)


def test_help_shows_the_command_in_the_form_in_which_the_program_was_started(tmp_path):
    command, environment = [sys.executable, "-m", "ddpm_jax.commands.sample"], {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([*command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert "  python -m ddpm_jax.commands.sample --workdir=DIR" in shown
    assert "sample.py" not in shown


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__source": "folder", "data__path": "{tmp}/nothing"}, "nothing"),
        ({"data__source": "folder", "data__path": "{tmp}"}, "image"),
        ({"data__source": "tfds", "data__name": "cifar10", "data__path": "{tmp}"}, "ddpm_jax.data.prepare cifar10"),
        ({"data__source": "floppy"}, "data.source='floppy' is not one of"),
        ({"data__split": "tset"}, "data.split='tset' is not one of"),
        ({"data__image_size": 9, "model__channel_mult": (1, 1)}, "cannot be halved"),
        ({"train__batch_size": 12}, "images cannot be divided evenly over 8 devices"),
        ({"diffusion__schedule": "lineal"}, "is not one of: linear"),
        ({"diffusion__beta_end": 2.0}, "does not define a valid noise schedule"),
        ({"diffusion__target": "noise"}, "is not one of: eps"),
        ({"loss__times": "sometimes"}, "is not one of: uniform"),
        ({"loss__weight": "heavy"}, "is not one of: eps"),
        ({"loss__kind": "hybrid"}, "learned_variance=True"),
        ({"model__norm_groups": 3}, "norm_groups=3"),
        ({"model__dtype": "float8"}, "is not one of: float32"),
        ({"model__padding": "none"}, "padding"),
    ],
)
def test_training_refuses_before_it_writes(overrides, message, tmp_path):
    overrides = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in overrides.items()}
    with pytest.raises(UserError) as caught:
        train.train(tiny_config(**overrides), tmp_path / "run")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def pictures(tmp_path):
    """Eight pictures of which one is broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        Image.new("L", (8, 8), 30 * i).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


@pytest.mark.slow
def test_an_unreadable_image_is_named_and_can_be_passed_over(pictures, tmp_path):
    folder = {"data__source": "folder", "data__path": str(pictures), "train__num_steps": 2}
    with pytest.raises(UserError, match=r"3\.png.*skip_unreadable=True"):
        train.train(tiny_config(**folder), tmp_path / "a")
    assert int(train.train(tiny_config(**folder, data__skip_unreadable=True), tmp_path / "b").step) == 2


def test_a_directory_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        train.train(tiny_config(), tmp_path / "file" / "run")


def test_a_program_ends_quietly_where_nobody_reads_on():
    """As before `head`: what is printed goes into a pipe whose other end is closed."""
    read, write = os.pipe()
    os.close(read)
    program = "from ddpm_jax.commands import cli; cli.run(lambda: print('unheard'), module='ddpm_jax.commands.cli')"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (result.returncode, result.stderr) == (75, "")  # it may be started again


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """A limit on the size of files stands in for the disk: the third save does not fit into a smaller one."""
    config = tiny_config(train__num_steps=4)
    train.train(config, tmp_path)
    more = arguments(tiny_config(train__num_steps=12))
    limited = ["-c", f'ulimit -f 2; exec {sys.executable} train.py --workdir={tmp_path} "$@"', "train", *more]
    result = subprocess.run(["bash", *limited], cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    error = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert int(train.train(tiny_config(train__num_steps=5), tmp_path).step) == 5
