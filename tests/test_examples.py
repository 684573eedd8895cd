"""Each example starts a run again exactly if its exit code says so; stand-ins take the place of the schedulers.

The stand-ins are in `support/schedulers/`. The command `python` is one of them: it ends with the codes of a list.
"""

import os
import re
import shlex
import signal
import subprocess
import time

import pytest
from support.jobset import JobSet
from support.tiny import ROOT

EXAMPLES = ROOT / "examples"
DEADLOCK = 600  # seconds; says nothing of speed


class StandIn:
    """The schedulers' stand-ins in an empty folder, and what was asked of them.

    Args:
      folder: where their files are.
    """

    def __init__(self, folder):
        self.folder = folder
        schedulers = ROOT / "tests" / "support" / "schedulers"
        self.environment = {**os.environ, "PATH": f"{schedulers}:{os.environ['PATH']}", "STAND_IN": str(folder)}
        self.environment |= {"PAUSE": "0", "WORKDIR": "gs://bucket/run"}

    def codes(self, *tasks):
        """Sets the codes of the starts of each task."""
        for task, codes in enumerate(tasks):
            (self.folder / f"codes.{task}").write_text("".join(f"{code}\n" for code in codes))

    def start(self, *command, **environment):
        return subprocess.Popen(
            command, cwd=self.folder, env={**self.environment, **environment}, stderr=subprocess.DEVNULL
        )

    def run(self, *command, **environment):
        return self.start(*command, **environment).wait(DEADLOCK)

    def lines(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def starts(self, task=0):
        return self.lines(f"starts.{task}")

    def wait_for(self, name):
        while not (self.folder / name).exists():
            time.sleep(0.01)


@pytest.fixture
def stand_in(tmp_path):
    return StandIn(tmp_path)


@pytest.mark.parametrize(
    ("codes", "most", "end"),
    [
        ([0], 100, 0),
        ([75, 137, 0], 100, 0),
        ([75, 1, 0], 100, 1),
        ([130, 0], 100, 130),
        ([75, 75, 75], 2, 75),
    ],
)
def test_the_loop_starts_again_by_the_code(stand_in, codes, most, end):
    stand_in.codes(codes)
    assert stand_in.run(EXAMPLES / "loop.sh", "python", "train.py", "--a b", MOST=str(most)) == end
    done = next((i for i, code in enumerate(codes[:most], 1) if code in (0, 1, 130)), most)
    assert stand_in.starts() == ["train.py --a b"] * done


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_the_loop_passes_a_signal_on_and_starts_nothing_after_it(stand_in, number, code):
    stand_in.codes(["hang", 0])
    loop = stand_in.start(EXAMPLES / "loop.sh", "python", "train.py")
    stand_in.wait_for("hangs.0")
    loop.send_signal(number)
    assert loop.wait(DEADLOCK) == code
    assert len(stand_in.starts()) == 1


DISTRIBUTED = "train.py --distributed --config=configs/imagenet64.py"


def test_a_signal_ends_the_pause_of_the_loop(stand_in):
    stand_in.codes([75, 0])
    loop = subprocess.Popen(
        [EXAMPLES / "loop.sh", "python", "train.py"],
        env={**stand_in.environment, "PAUSE": "3600"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert loop.stderr.readline() == "start 1 ended with code 75: again in 3600 s\n"
    loop.terminate()
    assert loop.wait(DEADLOCK) == 75
    loop.stderr.close()


def sbatch(stand_in, *, preempts=False, restarts=0):
    """Stands for Slurm: starts a job as often as it is requeued, and signals a start that hangs.

    By "--signal" without "B:" the steps get the signal at the time limit, before a preemption the script gets it too.
    """
    script = (EXAMPLES / "slurm.sh").read_text()
    directives = re.findall(r"^#SBATCH (.*?)(?: +#.*)?$", script, re.MULTILINE)
    options = dict(option.partition("=")[::2] for line in directives for option in shlex.split(line))
    assert "--requeue" in options  # else `scontrol requeue` is refused
    number = signal.Signals[f"SIG{options['--signal'].partition('@')[0]}"]
    hangs = "hang" in stand_in.lines("codes.0")
    for restart in range(restarts, restarts + 10):
        before = len(stand_in.lines("requeued"))
        job = stand_in.start(
            "bash", EXAMPLES / "slurm.sh", "--config.seed=1", SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restart)
        )
        if hangs and restart == restarts:
            stand_in.wait_for("hangs.0")
            stand_in.wait_for("hangs.1")
            (step,) = children(job.pid)  # srun
            os.kill(step, number)
            if preempts:
                job.send_signal(number)
        code = job.wait(DEADLOCK)
        if len(stand_in.lines("requeued")) == before:
            return code
    raise AssertionError("it is requeued for ever")


def children(pid):
    """The processes that a process has started."""
    shown = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return [int(child) for child, parent in map(str.split, shown.splitlines()) if int(parent) == pid]


@pytest.mark.parametrize(
    ("first", "second", "end", "starts"),
    [
        ([0], [0], 0, 1),
        ([75, 137, 0], [75, 75, 0], 0, 3),  # a lost process and the one that notices it
        ([75, 0], [1, 0], 1, 1),  # the one with an error of its own counts
        ([130, 0], [130, 0], 130, 1),
    ],
)
def test_slurm_requeues_by_the_codes_of_all_tasks(stand_in, first, second, end, starts):
    stand_in.codes(first, second)
    assert sbatch(stand_in) == end
    expected = [
        "train.py --config=configs/imagenet64.py --config.data.path=data --workdir=gs://bucket/run --config.seed=1"
    ] * starts
    assert [stand_in.starts(task) for task in (0, 1)] == [expected, expected]
    assert stand_in.lines("requeued") == ["7"] * (starts - 1)


@pytest.mark.parametrize("preempts", [False, True])
def test_slurm_requeues_a_job_at_its_time_limit_and_before_a_preemption(stand_in, preempts):
    stand_in.codes(["hang", 0], ["hang", 0])
    assert sbatch(stand_in, preempts=preempts) == 0
    assert len(stand_in.starts(1)) == 2


def test_slurm_requeues_a_limited_number_of_times(stand_in):
    stand_in.codes([75] * 10, [75] * 10)
    assert sbatch(stand_in, restarts=98) == 75
    assert len(stand_in.starts()) == 3


@pytest.mark.parametrize(
    ("codes", "end", "restarts"),
    [
        ([[0], [0], [0], [0]], "Completed", 0),
        ([[75, 75, 0], [137, 75, 0], [75, 75, 0], [75, 137, 0]], "Completed", 2),
        ([[75, 75, 0], [75, 1, 0], [75, 75, 0], [75, 75, 0]], "Failed", 1),
        ([[130, 0], [130, 0], [130, 0], [130, 0]], "Failed", 0),
    ],
)
def test_a_jobset_starts_all_hosts_again_by_the_codes(stand_in, codes, end, restarts):
    stand_in.codes(*codes)
    jobset = JobSet(EXAMPLES / "gke_jobset.yaml", lambda command, i: stand_in.start(*command, TASK=str(i)))
    assert (jobset.run(), jobset.restarts) == (end, restarts)
    command = f"{DISTRIBUTED} --config.data.path=DATA --workdir=gs://BUCKET/imagenet64"
    assert [stand_in.starts(i) for i in range(4)] == [[command] * (restarts + 1)] * 4


TPU = {"DATA": "/mnt/data", "ZONE": "z", "TYPE": "v6e-16", "VERSION": "v"}


def asked(stand_in):
    """What was asked of queued resources and hosts, besides their state."""
    requests = [re.search(r"(create|delete|ssh) run ", line) for line in stand_in.lines("gcloud")]
    return [found[1] for found in requests if found]


def test_a_spot_slice_that_is_taken_away_is_asked_for_again(stand_in):
    """The setup fails once, for which nobody is needed; the slice is given back in the end."""
    stand_in.codes([75, 137, 0], [75, 75, 0])
    assert stand_in.run(EXAMPLES / "tpu_spot.sh", "--config.seed=1", **TPU) == 0
    assert asked(stand_in)[0] == "create"
    assert asked(stand_in)[-5:] == ["ssh", "delete", "create", "ssh", "delete"]
    command = f"{DISTRIBUTED} --config.data.path=/mnt/data --workdir=gs://bucket/run --config.seed=1"
    assert set(stand_in.starts() + stand_in.starts(1)) == {command}
    assert stand_in.lines("codes.0") == stand_in.lines("codes.1") == []


def test_a_spot_slice_is_kept_for_the_person_who_mends_its_run(stand_in):
    for task in (0, 1):
        (stand_in.folder / f"installed.{task}").touch()
    (stand_in.folder / "state").write_text("ACTIVE\n")  # which an earlier call has asked for
    stand_in.codes([75, 0], [1, 0])
    assert stand_in.run(EXAMPLES / "tpu_spot.sh", **TPU) == 1
    assert asked(stand_in) == ["ssh"]


def with_gcloud(stand_in, script):
    """The environment in which `gcloud` notes its arguments and runs these lines of the shell."""
    gcloud = stand_in.folder / "gcloud.d" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(f'#!/usr/bin/env bash\necho "$*" >>"$STAND_IN/gcloud"\n{script}\n')
    gcloud.chmod(0o755)
    return {**TPU, "PATH": f"{gcloud.parent}:{stand_in.environment['PATH']}"}


def test_a_request_that_is_refused_needs_a_person(stand_in):
    """And one whose state cannot be asked for is asked for again."""
    environment = with_gcloud(
        stand_in,
        "if [[ $* != *describe* ]]; then echo PERMISSION_DENIED; exit 1; fi\n"
        'mkdir "$STAND_IN/once" 2>/dev/null && echo "no network" || echo NOT_FOUND\n'
        "exit 1",
    )
    assert stand_in.run(EXAMPLES / "tpu_spot.sh", **environment) == 1
    assert [line.split()[3] for line in stand_in.lines("gcloud")] == ["describe", "describe", "create"]


@pytest.mark.parametrize(
    "said", ["ERROR: (gcloud) UNAVAILABLE: the service is busy", "ERROR: Connection reset by peer"]
)
def test_a_request_whose_error_may_pass_is_repeated(stand_in, said):
    environment = with_gcloud(
        stand_in,
        "if [[ $* == *describe* ]]; then echo NOT_FOUND; exit 1; fi\n"
        f'mkdir "$STAND_IN/once" 2>/dev/null && echo "{said}" >&2 || echo INVALID_ARGUMENT >&2\n'
        "exit 1",
    )
    assert stand_in.run(EXAMPLES / "tpu_spot.sh", **environment) == 1
    assert [line.split()[3] for line in stand_in.lines("gcloud")] == ["describe", "create"] * 2


def test_a_slice_that_is_not_given_back_is_not_the_end(stand_in):
    """It is billed as long as it exists, so a person is told what to do."""
    environment = with_gcloud(
        stand_in,
        "case $* in *describe*) echo ACTIVE ;; *delete*) exit 1 ;;\n"
        '*) for a in "$@"; do [[ $a != --output-directory=* ]] || echo "ended with code 0" >"${a#*=}/0.log"; done ;;\n'
        "esac",
    )
    done = subprocess.run(
        [EXAMPLES / "tpu_spot.sh"],
        cwd=stand_in.folder,
        env={**stand_in.environment, **environment},
        capture_output=True,
        text=True,
    )
    command = "gcloud compute tpus queued-resources delete run --zone=z --force --quiet"
    remedy = f"its slice was not given back and costs money: repeat {command}"
    assert (done.returncode, done.stderr) == (1, f"error: the run is done, but {remedy}\n")


def test_the_time_until_sigkill_is_not_promised_on_spot_nodes():
    """GKE gives pods on them 15 s by default, whatever the pod asks for."""
    for path in (EXAMPLES / "gke_jobset.yaml", ROOT / "docs" / "operating.md"):
        text = path.read_text()
        assert "15 s by default" in text
        assert "https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms" in text


def test_every_example_is_in_the_documentation():
    page = (ROOT / "docs" / "operating.md").read_text()
    for example in EXAMPLES.iterdir():
        assert f"(../examples/{example.name})" in page, example.name
        assert example.suffix != ".sh" or os.access(example, os.X_OK), example.name
