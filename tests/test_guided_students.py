"""Students that learn the guidance of their teacher, and so draw with one evaluation per step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.students import AVERAGED, OF_BOTH, Small, spec_of, student, teaching_run, tuned
from support.tiny import random_state, same, tiny_config

from ddpm_jax import factory
from ddpm_jax.diffusion import distillation, mean_flow
from ddpm_jax.errors import UserError
from ddpm_jax.factory.models import shown_labels
from ddpm_jax.jobs.train import train
from ddpm_jax.runs.run import Run
from ddpm_jax.training.state import Teacher
from ddpm_jax.training.step import draw_examples

pytestmark = pytest.mark.usefixtures("quick_compilation")

SLOW = pytest.mark.slow


OF_CLASSES = {**OF_BOTH, "labels__num_classes": 10, "labels__dropout": 0.1}
GUIDED = {**OF_CLASSES, "distil__guidance_scale": 2.5}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The run of a denoiser."""
    return teaching_run(tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    """The run of a conditional denoiser that was also trained without the class."""
    return teaching_run(tmp_path_factory.mktemp("of_classes") / "run", **OF_CLASSES)


def test_the_first_teacher_of_a_guided_student_is_guided_and_a_student_that_teaches_is_not(of_classes):
    """As the chain of the teacher with that guidance scale, for images of every class and for the null label."""
    config, opened = student(of_classes, **GUIDED), Run(of_classes, network=Small())
    spec, lessons = spec_of(config), factory.curriculum(config)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8), "label": np.arange(64) % 10}
    drawn = draw_examples(spec, batch, jax.random.key(0), times_state=())
    own = jax.tree.map(lambda leaf: 1.5 * leaf, opened.params)
    shown = shown_labels(config, drawn.label, drawn.label_keys)
    assert 0 < jnp.sum(shown == 10) < 64
    noisy = drawn.x_0, drawn.noise_keys, drawn.transition
    of_scale = lambda scale: opened.configure(guidance_scale=scale, clip_x_0=False).config
    denoise = lambda scale, params: factory.denoiser(of_scale(scale), opened.model)(params, shown)
    for stage, scale in ((0, 2.5), (1, 1.0)):
        teaching = Teacher(opened.params, jnp.asarray(stage, jnp.int32))
        terms = spec.objective(own, drawn, jax.random.key(1), teacher=teaching)
        expected = distillation.l_progressive(lessons.within)(denoise(1.0, own), denoise(scale, opened.params), *noisy)
        np.testing.assert_allclose(terms["loss"], expected["loss"], rtol=1e-4)


def test_a_guided_student_draws_in_one_evaluation_per_step_and_is_not_guided_twice(of_classes, tmp_path):
    train(student(of_classes, **GUIDED, train__num_steps=4), tmp_path / "run", network=Small())
    state = train(student(of_classes, **GUIDED), tmp_path / "run", network=Small())
    assert same(state, train(student(of_classes, **GUIDED), tmp_path / "whole", network=Small()))
    assert not same(state, train(student(of_classes, **OF_CLASSES), tmp_path / "plain", network=Small()))
    opened = Run(tmp_path / "run", network=Small())
    assert not factory.guidance(opened.config).unconditional
    assert opened.sample(2).shape == (2, 8, 8, 1)
    assert opened.configure(guidance_scale=0).sample(1).shape == (1, 8, 8, 1)
    with pytest.raises(UserError, match=r"^guidance_scale=3 would guide twice: this student has learned the guidance"):
        opened.configure(guidance_scale=3).sample(1)
    again = {"sample__num_steps": 1, "distil__first_steps": 2}
    with pytest.raises(UserError, match=r"run has learned the guidance of the scale 2\.5 already: leave config"):
        train(student(tmp_path / "run", **{**GUIDED, **again}), tmp_path / "next", network=Small())
    last = {**OF_CLASSES, **again, "train__num_steps": 1}
    assert int(train(student(tmp_path / "run", **last), tmp_path / "next", network=Small()).step) == 1
    second = Run(tmp_path / "next", network=Small())
    assert second.config.teacher.guidance_scale == 2.5
    with pytest.raises(UserError, match=r"^guidance_scale=3 would guide twice: .* of the scale 2\.5; set"):
        second.configure(guidance_scale=3).sample(1)
    with pytest.raises(UserError, match=r"next has learned the guidance of the scale 2\.5 already: leave config"):
        train(student(tmp_path / "next", **{**GUIDED, **again}), tmp_path / "third", network=Small())
    forgets = r"run has learned the guidance of the scale 2\.5, and this student would forget it, since it learns from"
    with pytest.raises(UserError, match=forgets):
        train(tuned(tmp_path / "run", **OF_CLASSES), tmp_path / "third", network=Small())
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize("labels", [{}, {"labels__num_classes": 10}])
def test_guidance_needs_a_teacher_with_classes_and_the_null_label(labels, teacher, tmp_path):
    with pytest.raises(UserError, match=r"^config.distil.guidance_scale=2 needs a teacher trained both with and with"):
        train(student(teacher, distil__guidance_scale=2.0, **labels), tmp_path / "run", network=Small())
    assert not (tmp_path / "run").exists()


def test_a_student_of_consistency_has_no_guidance_to_learn(of_classes, tmp_path):
    with pytest.raises(UserError, match=r"^config.distil.guidance_scale=2.5 has no effect with config.distil.method="):
        train(tuned(of_classes, **GUIDED), tmp_path / "run", network=Small())


def test_a_guided_student_of_mean_flow_is_itself_the_network_without_the_class():
    config = tiny_config(**AVERAGED, labels__num_classes=10, labels__dropout=0.1, distil__guidance_scale=2.5)
    model, params = factory.network(config), random_state(config).params
    params["embedding"]["label"]["embedding"] *= 30  # so that the class is seen
    spec = factory.train_spec(config, model, num_images=1297)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8), "label": np.arange(8)}
    drawn = draw_examples(spec, batch, jax.random.key(0), times_state=())
    terms = jax.jit(spec.objective)(params, drawn, jax.random.key(1))
    schedule, make = factory.noise_schedule(config), factory.denoiser(config, model)
    shown = shown_labels(config, drawn.label, drawn.label_keys)
    noisy = drawn.x_0, drawn.noise_keys, drawn.transition
    for null, right in ((jnp.full(8, 10), True), (shown, False)):
        loss = mean_flow.l_mean_flow(schedule, guidance_scale=2.5)
        of = jax.jit(lambda null, loss=loss: loss(make(params, shown), make(params, null), *noisy))
        assert np.allclose(terms["velocity_mse"], of(null)["velocity_mse"], rtol=1e-3) == right
