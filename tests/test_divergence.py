"""A step that diverges: recognised inside the compiled step, and then the run stops, passes over it, or rolls back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny import given_config, same, untimed

import ddpm_jax as dj
from ddpm_jax.data.pipeline import batch_indices
from ddpm_jax.diffusion.losses import l_simple
from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.diffusion.time_sampling import importance
from ddpm_jax.errors import UserError
from ddpm_jax.jobs import train
from ddpm_jax.training.divergence import WINDOW, diverged, no_steps, stands_out, with_step
from ddpm_jax.training.log import read_log
from ddpm_jax.training.restoring import saved_steps, stored_config
from ddpm_jax.training.state import initial_state, passed_over
from ddpm_jax.training.step import TrainSpec, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

BAD = 5  # the step whose batch has an image that no loss survives
CONFIG = {"loss__times": "importance", "diffusion__num_timesteps": 4}


class Line(nn.Module):
    """A network that compiles at once."""

    @nn.compact
    def __call__(self, x_t, index, label, train=False):
        return nn.Dense(1)(x_t) + nn.Dense(1)(index[:, None] / 4)[:, :, None, None]


def sources(*steps):
    """Images of noise, of which one in the batch of each of these steps is white."""
    images = np.random.default_rng(0).integers(0, 250, (200, 8, 8, 1)).astype(np.uint8)
    for step in steps:
        images[batch_indices(200, batch_size=8, seed=0, step=step - 1)[3]] = 255
    return dj.ArrayImages(images)


def fragile(denoise, x_0, keys, transition):
    """L_simple, whose gradient is not finite where an image is white: its value is."""
    terms = l_simple()(denoise, x_0, keys, transition)
    white = jnp.all(x_0 == 1, axis=(1, 2, 3))
    zero = jnp.where(white, terms["loss"] - jax.lax.stop_gradient(terms["loss"]), 1)
    return {**terms, "loss": terms["loss"] + jnp.where(white, jnp.sqrt(zero), 0)}


def run(workdir, *steps, hooks=(), **changes):
    """The state of a run in which these steps diverge."""
    config = given_config(**{**CONFIG, **changes})
    return train.train(config, workdir, source=sources(*steps), network=Line(), loss=fragile, hooks=hooks)


def lines(workdir):
    """The lines of a log without their speeds and the step of a roll-back."""
    return [{name: line[name] for name in line if name != "rolled_back_from"} for line in untimed(workdir)]


@pytest.fixture(scope="module")
def told(tmp_path_factory, quick_compilation):
    """A run that was told to pass over the batch: its directory and its state."""
    workdir = tmp_path_factory.mktemp("told")
    return workdir, run(workdir, BAD, train__pass_over=(BAD,))


def scalar_step(objective, **changes):
    """A state of one number at step 5, after a step with this objective of (params, labels), and its metrics."""
    spec = TrainSpec(
        objective=lambda params, examples, key: {"loss": objective(params, examples.label)},
        times=importance(4),
        transitions=linear(4, beta_start=0.1, beta_end=0.2).transitions(),
        optimizer=optax.adam(0.1),
        **changes,
    )
    state = initial_state(jax.random.key(0), lambda key: jnp.ones(()), optimizer=spec.optimizer, times=spec.times)
    state = state.replace(step=jnp.array(5))
    batch = {"image": np.zeros((4, 2, 2, 1), np.uint8), "label": np.arange(4)}
    return state, *jax.jit(lambda state: train_step(spec, state, batch))(state)


@pytest.mark.parametrize(
    "objective",
    [
        lambda params, label: params * jnp.where(label == 2, jnp.nan, 1.0),
        lambda params, label: params * jnp.where(label == 2, jnp.inf, 1.0),
        lambda params, label: jnp.sqrt(jnp.abs(params - 1)) + label,  # of which the gradient alone is not finite
    ],
)
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(objective):
    before, after, metrics = scalar_step(objective)
    assert metrics["diverged"]
    assert same(after, passed_over(before))
    assert (after.step, after.recent.passed_over, metrics["passed_over"]) == (6, 1, 1)
    assert same(after.replace(step=before.step, recent=before.recent), before)


def test_a_finite_step_is_taken_and_remembered():
    before, after, metrics = scalar_step(lambda params, label: params * (label + 1.0))
    assert not metrics["diverged"]
    assert (after.step, after.recent.taken, after.recent.passed_over) == (6, 1, 0)
    np.testing.assert_allclose([after.recent.loss[0], after.recent.grad_norm[0]], [2.5, 2.5], rtol=1e-6)
    assert after.params != before.params
    assert not same(after.times, before.times)
    assert not same(after.opt_state, before.opt_state)


def test_the_memory_has_the_latest_steps():
    recent = no_steps()
    for step in range(2 * WINDOW + 7):
        recent = with_step(recent, {"loss": jnp.float32(step), "grad_norm": jnp.float32(-step)})
    latest = np.arange(WINDOW + 7, 2 * WINDOW + 7)
    np.testing.assert_array_equal(np.sort(recent.loss), latest)
    np.testing.assert_array_equal(np.sort(recent.grad_norm), -latest[::-1])
    assert recent.taken == 2 * WINDOW + 7


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (-100, 1), (5, 1e-3)])
def test_a_number_stands_out_by_its_distance_from_the_median_in_median_deviations(shift, scale):
    """Of -2..2 the median is 0 and the median deviation 1, whatever one outlier is; the unit and zero do not matter."""
    for outlier in (2.0, 1e6):
        earlier = shift + scale * np.array([-2.0, -1, 0, 1, outlier])
        for value, expected in ((2.9, False), (3.1, True), (-50.0, False)):
            assert stands_out(jnp.float32(shift + scale * value), jnp.asarray(earlier), threshold=3) == expected


def filled(steps):
    """The memory after steps with losses around 1 and gradient norms around 10."""
    recent = no_steps()
    for step in range(steps):
        recent = with_step(recent, {"loss": jnp.float32(1 + 0.1 * (step % 3)), "grad_norm": jnp.float32(10 + step % 3)})
    return recent


@pytest.mark.parametrize(
    ("loss", "norm", "steps", "threshold", "expected"),
    [
        (1.1, 11.0, WINDOW, 5.0, False),
        (1.7, 11.0, WINDOW, 5.0, True),
        (1.1, 17.0, WINDOW, 5.0, True),
        (1.7, 17.0, WINDOW - 1, 5.0, False),  # too few to compare with
        (1e9, 1e9, WINDOW, 0.0, False),  # nothing is compared
        (np.nan, 11.0, 0, 0.0, True),
        (1.1, np.inf, WINDOW, 5.0, True),
    ],
)
def test_a_step_diverges_if_a_number_is_not_finite_or_stands_out(loss, norm, steps, threshold, expected):
    metrics = {"loss": jnp.float32(loss), "grad_norm": jnp.float32(norm), "quarter_count": jnp.ones(4)}
    assert diverged(metrics, filled(steps), threshold=threshold) == expected


def test_a_run_that_diverges_stops_and_goes_on_if_told_to_pass_over_the_batch(told, tmp_path):
    """It remembers this, also where the command that resumes it does not say so."""
    images = ", ".join(map(str, batch_indices(200, batch_size=8, seed=0, step=BAD - 1)))
    with pytest.raises(UserError) as caught:
        run(tmp_path, BAD)
    expected = (
        f"(gradient norm nan) at step {BAD}, on images {images} of the data; the last good checkpoint is step 4; "
    )
    assert expected in str(caught.value)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4]
    assert saved_steps(tmp_path / "checkpoints") == [4, 2]
    run(tmp_path, BAD, train__pass_over=(BAD,), train__num_steps=BAD)
    assert same(run(tmp_path, BAD), told[1])
    assert lines(tmp_path) == lines(told[0])


def test_skipping_is_the_run_that_was_told_to_pass_over_the_batch(told, tmp_path, capsys):
    assert same(run(tmp_path, BAD, train__on_divergence="skip"), told[1])
    assert told[1].recent.passed_over == 1
    assert lines(tmp_path) == lines(told[0])
    assert f"at step {BAD}; its batch is passed over (1 of at most 20)" in capsys.readouterr().err


@pytest.mark.parametrize("every", [2, 50])
def test_a_roll_back_is_the_run_that_was_told_to_pass_over_the_batch(told, tmp_path, capsys, every):
    """From a checkpoint, or from the beginning where there is none; the log has every step once."""
    state = run(tmp_path, BAD, train__on_divergence="rollback", checkpoint__every=every)
    assert same(state, told[1])
    assert lines(tmp_path) == lines(told[0])
    kept = 4 if every == 2 else 0
    assert f"the run returns to step {kept} and passes over the batch of step 5 (1 of at" in capsys.readouterr().out
    (noted,) = [line for line in read_log(tmp_path) if "rolled_back_from" in line]
    assert (noted["step"], noted["rolled_back_from"]) == (kept + 1 + (kept == 4), BAD)
    assert stored_config(tmp_path)["train"]["pass_over"] == [BAD]


@pytest.mark.slow
def test_a_roll_back_in_a_bucket_removes_later_checkpoints_and_saves_their_steps_again(bucket, tmp_path):
    told = run(tmp_path, 6, train__pass_over=(4, 5, 6), checkpoint__every=1)
    workdir, seen = f"{bucket}/rolled_back", []
    look = lambda step, *_: seen.append(saved_steps(f"{workdir}/checkpoints")) if step == 4 else None
    changes = {"train__on_divergence": "rollback", "train__rollback_batches": 3, "checkpoint__every": 1}
    assert same(run(workdir, 6, hooks=[look], checkpoint__keep=8, **changes), told)
    assert max(seen[-1]) <= 4
    assert lines(workdir) == lines(tmp_path)
    assert saved_steps(f"{workdir}/checkpoints") == [*range(int(told.step), 0, -1)]


class KilledError(BaseException):
    """The end of a process, as far as a run can see it: nothing is saved."""


@pytest.mark.parametrize("last", [4, 7])
def test_a_roll_back_that_is_killed_is_resumed_bit_for_bit(told, tmp_path, last):
    """Before the first checkpoint after it, so that it happens again; or after that."""
    seen = []

    def killing(step, state, metrics):
        seen.append(step)
        if step == last and seen.count(4) == 2:
            raise KilledError

    changes = {"train__on_divergence": "rollback", "checkpoint__every": 3}
    with pytest.raises(KilledError):
        run(tmp_path, BAD, hooks=[killing], **changes)
    assert same(run(tmp_path, BAD, **changes), told[1])
    assert lines(tmp_path) == lines(told[0])


def test_a_roll_back_passes_over_the_batches_before_too_and_leaves_no_later_checkpoint(tmp_path, capsys):
    told = run(tmp_path / "told", 6, train__pass_over=(4, 5, 6), checkpoint__every=1)
    changes = {"train__on_divergence": "rollback", "train__rollback_batches": 3, "checkpoint__every": 1}
    kept = []
    look = lambda step, *_: kept.append(saved_steps(tmp_path / "back" / "checkpoints")) if step == 4 else None
    state = run(tmp_path / "back", 6, hooks=[look], checkpoint__keep=8, **changes)
    assert same(state, told)
    assert "the run returns to step 3 and passes over the batch of steps 4 to 6 (3 of" in capsys.readouterr().out
    assert set(kept[1]) <= {4, 3, 2, 1}
    assert lines(tmp_path / "back") == lines(tmp_path / "told")


@pytest.mark.parametrize("way", ["skip", "rollback"])
def test_no_more_batches_are_passed_over_than_permitted(tmp_path, way):
    with pytest.raises(UserError, match=r"at step 7, on images .* config.train.max_passed_over=2 permits no more"):
        run(tmp_path, 4, 5, 7, train__on_divergence=way, train__max_passed_over=2)
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 6]
    assert read_log(tmp_path)[-1]["passed_over"] == 2


def test_a_roll_back_over_more_batches_than_permitted_is_refused_at_the_start(tmp_path):
    changes = {"train__on_divergence": "rollback", "train__rollback_batches": 200}
    with pytest.raises(UserError, match=r"rollback_batches=200 is above config.train.max_passed_over=20, so that no"):
        train.train(given_config(**changes), tmp_path / "run", source=lambda step: [], network=Line())
    assert not (tmp_path / "run").exists()


def test_a_roll_back_holds_no_second_state_while_it_reads_one(tmp_path, monkeypatch):
    """What is left of the attempt that diverged is one state, in the buffers of its save."""
    held, begin = [], train._restored_or_new

    def counted(ready, checkpoints):
        held.append(sum(leaf.nbytes for leaf in jax.live_arrays()))
        return begin(ready, checkpoints)

    monkeypatch.setattr(train, "_restored_or_new", counted)
    before = sum(leaf.nbytes for leaf in jax.live_arrays())
    state = run(tmp_path, 7, train__on_divergence="rollback")
    size = sum(
        leaf.nbytes for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array) and leaf.dtype != state.key.dtype
    )
    assert held[1] - before < 1.5 * size


def test_batches_that_begin_anew_are_not_rolled_back(tmp_path):
    config = given_config(train__on_divergence="rollback")
    with pytest.raises(UserError, match="give a function of the number of steps taken in place of an iterable"):
        train.train(config, tmp_path / "run", source=[], network=Line())
    assert not (tmp_path / "run").exists()
