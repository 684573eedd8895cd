"""The log has the means of every step once, TensorBoard shows the same, and a run that diverges is stopped."""

import contextlib
import io
import json
import re
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from ddpm_jax.errors import UserError
from ddpm_jax.training import goodput
from ddpm_jax.training.board import TensorBoard
from ddpm_jax.training.log import DivergedError, RunLog, read_log
from ddpm_jax.training.log_lines import LogFile
from ddpm_jax.training.sinks import Start


def metrics(loss, grad_norm=1.0, counts=(1, 1, 1, 1), sums=(1.0, 2.0, 3.0, 4.0), **more):
    """What a train step reports."""
    quarters = {"quarter_sums": {"loss": np.array(sums)}, "quarter_count": np.array(counts, float)}
    diverged = not np.isfinite([loss, grad_norm, *more.values()]).all()
    steps = {"diverged": np.array(diverged), "passed_over": np.int32(diverged)}
    return {"loss": np.float32(loss), "grad_norm": np.float32(grad_norm), **more, **quarters, **steps}


@contextlib.contextmanager
def run_log(workdir, start_step=0, *, rolled_back_from=0, sinks=(), **options):
    """A log of up to 10 steps of 4 images; the learning rate of step s is s / 100."""
    start, sinks = Start(workdir, {}, start_step, rolled_back_from), [LogFile(), TensorBoard(), *sinks]
    options = {"num_steps": 10, "batch_size": 4, "learning_rate": lambda step: step / 100, **options}
    with RunLog(start, sinks, **options) as log, log.clock.phase("steps"):
        yield log


def write(workdir, steps, start_step=0):
    with run_log(workdir, start_step) as log:
        for step in steps:
            log.add(step, metrics(step))
            log.flush()


def test_the_share_of_the_peak_is_in_the_line_the_board_and_the_bar(tmp_path, monkeypatch, capsys):
    """Where the peak is known; else nothing is said of it."""
    for name, peak in (("known", 50.0), ("unknown", None)):
        with run_log(tmp_path / name, peak_steps_per_s=peak) as log:
            monkeypatch.setattr(log.clock, "taken", lambda: dict.fromkeys(goodput.PHASES, 0.0) | {"steps": 0.2})
            for step in (1, 2):
                log.add(step, metrics(step))
            log.flush()
        shown = capsys.readouterr().out
        (line,) = read_log(tmp_path / name)
        assert line.get("mfu") == (0.2 if peak else None)  # 10 of 50 steps/s
        assert ("40 images/s (20.0% MFU)" in shown) == bool(peak)
        assert scalars(tmp_path / name).get((2, "mfu"), 0) == pytest.approx(0.2 if peak else 0)


def events(workdir):
    """The events of TensorBoard's files, oldest first: length, checksum, event, checksum, and so on."""
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(workdir):
    """`{(step, name): value}` of TensorBoard's files."""
    values = [(event.step, value) for event in events(workdir) for value in event.summary.value]
    return {(step, value.tag): value.simple_value for step, value in values if value.HasField("simple_value")}


def test_a_line_has_the_means_since_the_last(tmp_path, monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    with run_log(tmp_path) as log:
        log.add(1, metrics(3, 5, counts=(2, 0, 1, 0), sums=(6.0, 0.0, 1.0, 0.0), bound_nats=np.float32(7)))
        log.add(2, metrics(4, 6, counts=(0, 0, 3, 0), sums=(0.0, 0.0, 3.0, 0.0), bound_nats=np.float32(8)))
        now[0] = 104.0
        log.flush()
        now[0] = 105.0
        log.flush()  # nothing new
        log.add(3, metrics(1))
        log.flush()
    first, second = read_log(tmp_path)
    assert first == {
        "step": 2,
        "loss": 3.5,
        "grad_norm": 5.5,
        "bound_nats": 7.5,
        "loss_t1": 3.0,
        "loss_t3": 1.0,
        "learning_rate": 0.01,
        "steps_per_s": 0.5,
        "images_per_s": 2.0,
        "seconds_steps": 4.0,
    }
    quarters = {f"loss_t{i}": float(i) for i in range(1, 5)}
    rest = {"learning_rate": 0.02, "steps_per_s": 1.0, "images_per_s": 4.0, "seconds_steps": 1.0}
    assert second == {"step": 3, "loss": 1.0, "grad_norm": 1.0, **quarters, **rest}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "step 2/10  loss 3.5000  (3.000 - 1.000 -)  0.50 steps/s  2 images/s  00:00:16 left"


def test_previews_do_not_count_as_training_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    with run_log(tmp_path) as log:
        with log.clock.phase("previews"):
            now[0] = 50.0
        log.add(1, metrics(1))
        now[0] = 52.0
        log.flush()
    assert read_log(tmp_path)[0]["steps_per_s"] == 0.5


def test_tensorboard_shows_the_lines(tmp_path):
    write(tmp_path, [1, 2])
    shown = scalars(tmp_path)
    lines = read_log(tmp_path)
    assert len(shown) == sum(len(line) - 1 for line in lines)
    for line in lines:
        for name in line.keys() - {"step"}:
            assert shown[line["step"], name] == pytest.approx(line[name], rel=1e-6)


def test_a_picture_is_a_file_and_in_tensorboard(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (6, 9, 1)).astype(np.uint8)
    with run_log(tmp_path) as log:
        path = log.picture("ema", image, step=30)
    assert path == tmp_path / "previews" / "ema_0000030.png"
    assert np.array_equal(np.asarray(Image.open(path)), image[..., 0])
    (event,) = [event for event in events(tmp_path) if event.summary.value]
    assert (event.step, event.summary.value[0].tag) == (30, "ema")
    shown = np.asarray(Image.open(io.BytesIO(event.summary.value[0].image.encoded_image_string)).convert("L"))
    assert np.array_equal(shown, image[..., 0])


def test_what_was_logged_after_the_checkpoint_is_dropped_on_resuming(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 1e9)  # names of files in their order
    write(tmp_path, [1, 2, 3, 4])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # the process was killed here
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 2e9)
    write(tmp_path, [3, 4, 5], start_step=2)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts == [1, 3]  # TensorBoard hides what lies at or after this step in older files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "tensorboard"]


def test_without_a_log_there_are_no_lines(tmp_path):
    assert read_log(tmp_path) == []


@pytest.mark.parametrize("bad", [{"loss": np.nan}, {"loss": np.inf}, {"loss": 1, "grad_norm": np.nan}])
def test_a_loss_that_is_not_finite_stops_with_its_step_and_is_not_logged(tmp_path, bad):
    with run_log(tmp_path) as log:
        log.add(1, metrics(1))
        log.flush()
        log.add(2, metrics(1))
        log.add(3, metrics(**bad))
        with pytest.raises(DivergedError, match=r"^the loss became .* at step 3$") as error:
            log.flush()
        assert error.value.step == 3
    assert [line["step"] for line in read_log(tmp_path)] == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_another_term_that_is_not_finite_stops_with_its_name(tmp_path, value):
    """Its mean, or its sum in a quarter of t; the log stays plain JSON."""
    unknown = {"quarter_sums": {"loss": np.ones(4), "more": np.array([1, 1, value, 1])}}
    diverged = {"diverged": np.array(True), "passed_over": np.int32(1)}
    for bad in (metrics(1, more=np.float32(value)), {**metrics(1, more=np.float32(2)), **unknown, **diverged}):
        with run_log(tmp_path) as log:
            log.add(1, metrics(1, more=np.float32(2)))
            log.flush()
            log.add(2, bad)
            mean = f"{bad['more']:g}"
            with pytest.raises(
                DivergedError,
                match=rf"^the loss has a term 'more' that is not finite \(its mean is {mean}\) at step 2$",
            ):
                log.flush()
    text = (tmp_path / "log.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    message = (
        rf"^cannot write the log in {re.escape(str(tmp_path))}: [^\n]*; fix the cause; then .* last good checkpoint$"
    )
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match=message), run_log(tmp_path):
        pass
    (tmp_path / "log.jsonl").rmdir()
    with run_log(tmp_path) as log:
        (tmp_path / "log.jsonl").mkdir()
        log.add(1, metrics(1))
        with pytest.raises(UserError, match=message):
            log.flush()


def test_a_full_disk_stops_the_log_in_one_line_and_closing_it_is_silent(tmp_path, capfd):
    def full(*args):
        raise OSError(28, "No space left on device")

    with run_log(tmp_path) as log:
        board = log._sinks[1]
        board._writer.flush = full
        log.add(1, metrics(1))
        with pytest.raises(UserError, match="No space left on device; free some space"):
            log.flush()
    assert "Error" not in capfd.readouterr().err
    del board._writer.flush
    board.end(None)


def test_lines_are_plain_json(tmp_path):
    write(tmp_path, [1])
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1


def test_measured_numbers_are_in_the_line_and_their_time_is_not_in_the_speed(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])

    def measured():
        now[0] += 50
        return {"held_out_loss": 0.25, "held_out_loss_t1": 0.5, "broken": float("nan")}

    with run_log(tmp_path) as log:
        for step, measure in ((1, measured), (2, dict)):
            now[0] += 2
            log.add(step, metrics(step))
            log.flush(measure)
    first, second = read_log(tmp_path)
    assert (first["held_out_loss"], first["held_out_loss_t1"]) == (0.25, 0.5)
    assert "broken" not in first
    assert [line["steps_per_s"] for line in (first, second)] == [0.5, 0.5]
    assert "held_out_loss" not in second
    assert scalars(tmp_path)[1, "held_out_loss"] == 0.25
    printed = capsys.readouterr()
    assert "(1.000 2.000 3.000 4.000)  held_out_loss 0.25  0.50 steps/s" in printed.out.splitlines()[0]
    assert "note: broken at step 1 is not finite, and is not logged" in printed.err


def test_nothing_is_measured_where_the_run_has_diverged(tmp_path):
    with run_log(tmp_path) as log:
        log.add(1, metrics(float("inf")))
        with pytest.raises(DivergedError):
            log.flush(lambda: pytest.fail("it was called"))


def test_a_step_that_is_tolerated_is_noted_and_leaves_the_means_as_they_are(tmp_path, capsys):
    """The line has the number of the last step and how many were passed over, by which the learning rate lags."""
    with run_log(tmp_path, tolerated=3) as log:
        for step, loss, passed_over in ((1, 3, 0), (2, np.nan, 1), (3, 5, 1), (4, np.inf, 2)):
            log.add(step, {**metrics(loss), "passed_over": np.int32(passed_over)})
        log.add(5, {})
        log.flush()
        log.add(6, {})
        log.flush(lambda: pytest.fail("nothing was learned since"))
        log.add(7, {**metrics(np.nan), "passed_over": np.int32(4)})
        with pytest.raises(DivergedError, match=r"^the loss became nan \(gradient norm 1\) at step 7$"):
            log.flush()
    (line,) = read_log(tmp_path)
    assert (line["step"], line["loss"], line["passed_over"], line["learning_rate"]) == (5, 4, 1, 0.01)
    expected = "step 2; its batch is passed over, and 1 more since the last line (2 of at most 3)"
    assert f"note: the loss became nan (gradient norm 1) at {expected}" in capsys.readouterr().err


def test_a_loss_that_stands_out_is_named(tmp_path):
    with run_log(tmp_path) as log:
        log.add(1, {**metrics(7, 8), "diverged": np.array(True), "passed_over": np.int32(1)})
        with pytest.raises(DivergedError, match="the loss of 7 or its gradient norm of 8 stands out from those of"):
            log.flush()


def test_the_first_line_after_a_roll_back_says_from_where(tmp_path):
    with run_log(tmp_path, rolled_back_from=9) as log:
        for step in (1, 2):
            log.add(step, metrics(1))
            log.flush()
    assert [line.get("rolled_back_from") for line in read_log(tmp_path)] == [9, None]


def test_two_logs_of_the_same_second_are_two_files_of_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: 1e9)
    write(tmp_path, [1, 2])
    write(tmp_path, [2, 3], start_step=1)
    assert sorted({step for step, _ in scalars(tmp_path)}) == [1, 2, 3]


def test_a_spike_of_the_loss_is_noted_in_one_line_and_counted(tmp_path, capsys):
    """It is far above the 101 losses before it; a fall is none, nor is anything before there are so many."""
    rng, spikes = np.random.default_rng(0), {60: 9.0, 151: 2.0, 153: 3.0, 155: 0.01}
    with run_log(tmp_path, num_steps=160) as log:
        for step in range(1, 161):
            log.add(step, metrics(spikes.get(step, 1 + 0.1 * rng.standard_normal())))
            if step % 80 == 0:
                log.flush()
    assert [line.get("spikes") for line in read_log(tmp_path)] == [None, 2]
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "loss at step" in line]
    begin = (
        r"^note: the loss at step 151 is 2; the median of those before is (0\.9|1\.0)\d*; 1 more since the last line$"
    )
    assert re.search(begin, note)
