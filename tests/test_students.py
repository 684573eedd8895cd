"""Students as runs: they start from their teacher, pass from stage to stage, resume bit for bit and draw images."""

import contextlib
import dataclasses
import io
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.students import OF_BOTH, STUDENT, Small, spec_of, student, teaching_run, tuned
from support.tiny import arguments, given_config, run, same, tiny_config
from support.tiny import save as saved

from ddpm_jax import factory
from ddpm_jax.config import denoises, kind
from ddpm_jax.diffusion import distillation
from ddpm_jax.diffusion.arrays import stream
from ddpm_jax.errors import UserError
from ddpm_jax.evaluation.report.writing import write_report
from ddpm_jax.jobs.checks import note_doubts
from ddpm_jax.jobs.resources import plan
from ddpm_jax.jobs.train import train
from ddpm_jax.runs.run import Run
from ddpm_jax.training.log import read_log
from ddpm_jax.training.state import Teacher, at_stage, passed_over
from ddpm_jax.training.step import draw_examples, train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The run of a denoiser."""
    return teaching_run(tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """The student's directory, the states after its steps, and what training it printed."""
    workdir, states = tmp_path_factory.mktemp("student") / "run", {}
    copied = lambda step, state, metrics: states.update({step: jax.tree.map(jnp.copy, state)})
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        train(student(teacher), workdir, network=Small(), hooks=[copied])
    return workdir, states, out.getvalue()


@pytest.fixture(scope="module")
def of_teacher(teacher):
    """The opened teacher."""
    return Run(teacher, network=Small())


def test_a_student_starts_from_the_averaged_parameters_of_its_teacher_and_keeps_its_digest(whole, of_teacher):
    """The first step of the warm-up has the learning rate 0."""
    workdir, states, _ = whole
    assert not same(of_teacher.params, Run(of_teacher.workdir, network=Small(), params="raw").params)
    assert same(states[1].params, of_teacher.params)
    assert same(states[1].teacher.params, of_teacher.params)
    assert not same(states[2].params, of_teacher.params)
    assert Run(workdir, network=Small()).config.teacher.digest == of_teacher.digest()


def test_at_the_end_of_a_stage_the_averaged_student_becomes_the_teacher(whole, of_teacher):
    states = whole[1]
    assert [int(states[step].teacher.stage) for step in range(1, 10)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for step in (1, 2, 3):
        assert same(states[step].teacher.params, of_teacher.params)
    for last, steps in ((3, (4, 5, 6)), (6, (7, 8, 9))):
        for step in steps:
            assert same(states[step].teacher.params, states[last].ema_params)
    assert not same(states[3].ema_params, states[3].params)


def test_each_stage_starts_from_the_averages_with_a_new_optimiser_and_a_new_warm_up(whole):
    workdir, states, said = whole
    for first in (4, 7):
        assert same(states[first].params, states[first - 1].ema_params)
        (count,) = {int(leaf) for leaf in jax.tree.leaves(states[first].opt_state) if leaf.dtype == jnp.int32}
        assert count == 1
        assert int(states[first].recent.taken) == 1
    assert said.count("stage 2: the student of step 3 is the teacher now, of one of 2 steps\n") == 1
    assert said.count("stage 3: the student of step 6 is the teacher now, of one of 1 steps\n") == 1
    assert said.count("is the teacher now") == 2
    rates = [line["learning_rate"] for line in read_log(workdir)]
    np.testing.assert_allclose(rates, [0, 5e-4, 1e-3] * 3)


@pytest.mark.parametrize(
    ("steps", "decay", "noted"),
    [(9, 3, ""), (9, 2, "the last 1 of 3 steps"), (7, 100, ""), (11, 3, "the last 2 of 5 steps")],
)
def test_a_rate_that_is_zero_before_a_stage_ends_is_noted(steps, decay, noted, teacher, capsys):
    config = student(teacher, train__num_steps=steps, optim__warmup_steps=0, optim__decay_steps=decay)
    note_doubts(config)
    said = capsys.readouterr().out
    assert ("the learning rate is 0 after" in said) == bool(noted)
    assert noted in said


def test_the_learning_rate_falls_to_zero_in_each_stage(teacher):
    rate = factory.learning_rate(student(teacher, optim__warmup_steps=1, optim__decay_steps=2))
    np.testing.assert_allclose([rate(step) for step in range(9)], [0, 1e-3, 5e-4] * 3, rtol=1e-6)


@pytest.mark.parametrize("stop", [pytest.param(2, marks=SLOW), 3, pytest.param(4, marks=SLOW)])
def test_a_run_that_is_resumed_before_at_or_after_the_end_of_a_stage_is_the_same_bit_for_bit(
    stop, whole, teacher, tmp_path
):
    train(student(teacher, train__num_steps=stop), tmp_path, network=Small())
    assert same(train(student(teacher), tmp_path, network=Small()), whole[1][9])


def test_a_stage_whose_first_batch_is_passed_over_begins_with_the_second(whole, teacher):
    spec, one = spec_of(student(teacher)), jnp.ones((), jnp.int32)
    state = at_stage(passed_over(whole[1][3]), one, spec.optimizer)
    assert int(state.step) == 4
    assert int(state.recent.passed_over) == 1
    assert same(state.teacher.params, whole[1][3].ema_params)
    assert same(at_stage(state, one, spec.optimizer), state)


def test_the_steps_that_are_learned_are_those_of_the_chain_of_the_stage(teacher):
    config = student(teacher)
    spec = spec_of(config)
    batch = {"image": np.zeros((256, 8, 8, 1), np.uint8), "label": np.zeros(256, np.int32)}
    pairs = lambda transition: {*zip(*(np.asarray(level.t).tolist() for level in transition[:2]), strict=True)}
    for step, count in ((0, 4), (2, 4), (3, 2), (6, 1), (50, 1)):
        drawn = draw_examples(spec, batch, jax.random.key(step), times_state=(), step=step)
        assert pairs(drawn.transition) == pairs(factory.sampling_transitions(config, count))


@SLOW
def test_a_train_step_has_the_transitions_and_the_teacher_of_its_stage(whole, teacher):
    spec, state = spec_of(student(teacher)), whole[1][5]
    batch = {"image": np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8), "label": np.zeros(8, int)}
    key = jax.random.fold_in(state.key, 5)
    drawn = draw_examples(spec, batch, key, times_state=(), step=5)
    expected = spec.objective(state.params, drawn, stream(key, "dropout"), teacher=state.teacher)
    _, metrics = jax.jit(partial(train_step, spec))(state, batch)
    np.testing.assert_allclose(metrics["loss"], np.mean(expected["loss"]), rtol=1e-5)
    assert not same(state.params, state.teacher.params)


@pytest.mark.parametrize(("settings", "options"), [({}, {}), ({"distil__distance": "huber"}, {"huber": 0.00054})])
def test_the_objective_compares_the_network_with_its_teacher(settings, options, teacher, of_teacher):
    """Parameters and labels arrive at both, the null label of an unconditional model included."""
    config = student(teacher, **settings)
    spec, lessons = spec_of(config), factory.curriculum(config)
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (8, 8, 8, 1), np.uint8), "label": np.arange(8)}
    drawn = draw_examples(spec, batch, jax.random.key(0), times_state=())
    own = jax.tree.map(lambda leaf: 2 * leaf, of_teacher.params)
    teaching = Teacher(of_teacher.params, jnp.zeros((), jnp.int32))
    terms = spec.objective(own, drawn, jax.random.key(1), teacher=teaching)
    make = factory.denoiser(config, factory.network(config, Small()))
    denoise, taught_by = (make(params, jnp.zeros(8, jnp.int32)) for params in (own, of_teacher.params))
    noisy = drawn.x_0, drawn.noise_keys, drawn.transition
    expected = distillation.l_progressive(lessons.within, **options)(denoise, taught_by, *noisy)
    jax.tree.map(lambda ours, other: np.testing.assert_allclose(ours, other, rtol=1e-5), terms, expected)


def test_a_student_is_a_denoiser_that_draws_in_its_few_steps(whole):
    opened = Run(whole[0], network=Small())
    assert denoises(opened.config)
    assert kind(opened.config) == "denoise"
    assert opened.chain().num_steps == 1
    assert opened.sample(3).shape == (3, 8, 8, 1)


MEASURED = {"data__held_out": 0.1, "data__random_flip": True, "log__held_out_every": 1}


def test_the_loss_on_held_out_images_is_that_of_the_averages_in_the_stage_of_the_last_step(teacher, tmp_path):
    """By the transitions and the teacher of that stage, the images as they are, always with the same noise."""
    config, states = student(teacher, **MEASURED), {}
    copied = lambda step, state, metrics: states.update({step: jax.tree.map(jnp.copy, state)})
    train(config, tmp_path, network=Small(), hooks=[copied])
    spec, model, lessons = spec_of(config), factory.network(config, Small()), factory.curriculum(config)
    source, lines = factory.of_split(config, "held_out"), read_log(tmp_path)
    key = stream(jax.random.key(0), "held_out")
    for step, count in ((3, 4), (4, 2), (9, 1)):
        state, losses = states[step], []
        make = factory.denoiser(config, model)
        denoise, taught_by = (make(params, jnp.zeros(8, int)) for params in (state.ema_params, state.teacher.params))
        for start in range(0, 256, 8):
            images = [source[i % len(source)]["image"] for i in range(start, start + 8)]
            batch = {"image": np.stack(images), "label": np.zeros(8, int)}
            plain = dataclasses.replace(spec, random_flip=False)
            drawn = draw_examples(plain, batch, jax.random.fold_in(key, start), times_state=(), step=step - 1)
            assert {*drawn.transition.now.t.tolist()} <= {16.0 * (i + 1) / count for i in range(count)}
            noisy = drawn.x_0, drawn.noise_keys, drawn.transition
            losses.append(distillation.l_progressive(lessons.within)(denoise, taught_by, *noisy)["loss"])
        assert lines[step - 1]["held_out_loss"] == pytest.approx(float(np.mean(losses)), rel=1e-4)
    assert same(train(student(teacher, **{**MEASURED, "log__held_out_every": 0}), tmp_path / "plain", network=Small()),
                states[9])  # fmt: skip


def test_the_loss_of_a_student_that_teaches_itself_is_measured_too(teacher, tmp_path):
    train(tuned(teacher, **MEASURED), tmp_path, network=Small())
    for line in read_log(tmp_path):
        assert np.isfinite([line["held_out_loss"], line["held_out_x_0_mse"], line["held_out_loss_t4"]]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher__workdir": ""}, "a student needs a teacher: set config.teacher.workdir to the work directory of a "),
        (
            {"teacher__workdir": "runs/nowhere"},
            "there is no run in runs/nowhere, which config.teacher.workdir names as the teacher: train it first",
        ),
        (
            {"diffusion__target": "eps"},
            "a network with config.diffusion.target=eps cannot be distilled: of pure noise, ",
        ),
        ({"diffusion__target": "x_0"}, " cannot teach this run: diffusion.target is 'v' there and 'x_0' here"),
        ({"diffusion__beta_end": 0.5}, " cannot teach this run: diffusion.beta_end is 0.02 there and 0.5 here"),
        ({"sample__clip_x_0": True}, "config.sample.clip_x_0=True is no part of the chain that a student of "),
        (
            {"sample__sampler": "heun"},
            "config.sample.sampler=heun is no part of the chain that a student of distil.method",
        ),
        ({"distil__method": "consistency", "distil__first_steps": 64}, "config.sample.sampler=ddim is no part of the "),
        (
            {"sample__num_steps": 3},
            "config.distil.first_steps=4 is not config.sample.num_steps=3, the steps of the last",
        ),
        (
            {"sample__num_steps": 8},
            "config.distil.first_steps=4 is not config.sample.num_steps=8, the steps of the last",
        ),
        ({"distil__first_steps": 16}, "cannot make a chain of 32 steps"),
        ({"sample__grid": "quadratic"}, "config.sample.grid=quadratic has other times for fewer steps"),
    ],
)
def test_what_cannot_be_taught_is_refused_in_one_line(changes, message, teacher, tmp_path):
    with pytest.raises(UserError) as error:
        train(student(teacher, **changes), tmp_path / "run", network=Small())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_has_changed_is_refused_when_the_run_is_resumed(whole, teacher, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    shutil.copytree(teacher, tmp_path / "teacher")
    longer = student(tmp_path / "teacher", train__num_steps=10)
    assert int(train(longer, tmp_path / "run", network=Small()).step) == 10  # a copy is the same teacher
    config = Run(teacher, network=Small()).config
    further = given_config(**OF_BOTH, optim__warmup_steps=0, optim__learning_rate=0.1, train__num_steps=4)
    further.data.on_device = config.data.on_device
    train(further, tmp_path / "teacher", network=Small())
    with pytest.raises(UserError, match=r"teacher is not the teacher with which this run began: its digest is \w{16}"):
        train(student(tmp_path / "teacher", train__num_steps=11), tmp_path / "run", network=Small())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "^a network with config.diffusion.target=eps cannot be distilled"),
        pytest.param(
            {"task": "classify", "labels__num_classes": 10},
            "teacher is the run of a classifier: a student needs a denoiser",
            marks=SLOW,
        ),
    ],
)
def test_neither_a_classifier_nor_a_network_of_eps_can_teach(changes, message, tmp_path):
    teacher = saved(tmp_path / "teacher", tiny_config(diffusion__num_timesteps=16, **changes))
    with pytest.raises(UserError, match=message):
        train(tiny_config(**STUDENT, teacher__workdir=str(teacher)), tmp_path / "run")


def test_a_learned_variance_cannot_be_distilled():
    config = tiny_config(**OF_BOTH, diffusion__learned_variance=True)
    with pytest.raises(UserError, match=r"^a network with config.diffusion.learned_variance=True cannot be distilled"):
        factory.check_teachable(config)


def test_the_loss_on_held_out_images_cannot_choose_the_best_student(teacher, tmp_path):
    config = student(teacher, checkpoint__best="held_out_loss", data__held_out=0.1)
    message = "^config.checkpoint.best=held_out_loss cannot compare the checkpoints of a student: its stages have "
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run", network=Small())


def test_a_loss_of_a_program_is_refused(teacher, tmp_path):
    loss = lambda denoise, x_0, keys, transition: {"loss": jnp.zeros(len(x_0))}
    with pytest.raises(UserError, match=r"^loss= does not apply to a student"):
        train(student(teacher), tmp_path / "run", network=Small(), loss=loss)


@SLOW
def test_the_plan_of_a_student_counts_its_teacher_without_opening_it():
    assert plan(tiny_config(**STUDENT)).parts["teacher"] == plan(tiny_config(**STUDENT)).parts["parameters"] + 4


@SLOW
def test_every_program_takes_a_student_for_a_denoiser(tmp_path):
    teacher = saved(tmp_path / "teacher", tiny_config(**OF_BOTH))
    config = tiny_config(**STUDENT, teacher__workdir=str(teacher))
    workdir = f"--workdir={tmp_path / 'student'}"
    trained = run("train.py", workdir, *arguments(config), "--config.loss.weight=eps")
    assert trained.status == 0, trained.err
    assert (tmp_path / "student" / "samples.png").exists()
    drawn = run("sample.py", workdir, "--num_images=2", f"--out={tmp_path / 'images.png'}")
    assert drawn.status == 0, drawn.err
    measured = run("evaluate.py", workdir, "--metrics=bpd", "--num_images=2", "--batch_size=2")
    assert measured.status == 0, measured.err
    assert "Samples" in write_report(Run(tmp_path / "student"), num_images=16).read_text()
