"""Students by consistency tuning and by MeanFlow as runs: how they start, resume and draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.students import AVERAGED, OF_BOTH, STUDENT, Small, spec_of, student, teaching_run, tuned
from support.tiny import same, tiny_config
from support.tiny import save as saved

from ddpm_jax import factory
from ddpm_jax.diffusion import distillation
from ddpm_jax.errors import UserError
from ddpm_jax.jobs.train import train
from ddpm_jax.runs.run import Run
from ddpm_jax.training.log import read_log
from ddpm_jax.training.step import draw_examples

pytestmark = pytest.mark.usefixtures("quick_compilation")

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The run of a denoiser."""
    return teaching_run(tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def of_teacher(teacher):
    """The opened teacher."""
    return Run(teacher, network=Small())


def test_a_student_of_consistency_starts_from_its_teacher_keeps_no_copy_and_resumes_bit_for_bit(
    teacher, of_teacher, tmp_path
):
    train(tuned(teacher, train__num_steps=2), tmp_path / "run", network=Small())
    state = train(tuned(teacher), tmp_path / "run", network=Small())
    assert state.teacher == ()
    states = {}
    copied = lambda step, state, metrics: states.update({step: jax.tree.map(jnp.copy, state)})
    assert same(train(tuned(teacher), tmp_path / "whole", network=Small(), hooks=[copied]), state)
    assert same(states[1].params, of_teacher.params)
    np.testing.assert_allclose([line["learning_rate"] for line in read_log(tmp_path / "run")], [0, 5e-4] + [1e-3] * 4)
    opened = Run(tmp_path / "run", network=Small())
    assert opened.config.teacher.digest == of_teacher.digest()
    assert [opened.chain(steps).num_steps for steps in (0, 1, 3)] == [2, 1, 3]
    assert opened.sample(2).shape == (2, 8, 8, 1)


def test_the_objective_of_consistency_compares_the_network_with_itself(teacher, of_teacher):
    """At t and at r the same parameters, label and dropout; the gradient is that of the estimate at t alone."""
    config = tuned(teacher)
    spec = spec_of(config)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1), np.uint8), "label": np.arange(8)}
    drawn = draw_examples(spec, batch, jax.random.key(0), times_state=(), step=20)
    make = factory.denoiser(config, factory.network(config, Small()))
    fixed = make(of_teacher.params, jnp.zeros(8, jnp.int32))
    noisy = drawn.x_0, drawn.noise_keys, drawn.transition

    def expected(params):
        own = make(params, jnp.zeros(8, jnp.int32))
        return jnp.sum(distillation.l_consistency()(own, fixed, *noisy)["loss"])

    ours = lambda params: jnp.sum(spec.objective(params, drawn, jax.random.key(1))["loss"])
    grads = jax.grad(ours)(of_teacher.params), jax.grad(expected)(of_teacher.params)
    jax.tree.map(lambda ours, other: np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-4), *grads)
    assert jnp.max(drawn.transition.next.sigma) > 0


def test_a_student_of_mean_flow_starts_from_its_teacher_and_resumes_bit_for_bit(tmp_path):
    """Its additional input, the time at which a step ends, has no effect before the first step and is trained."""
    teacher = saved(tmp_path / "teacher", tiny_config(**OF_BOTH))
    config = tiny_config(**AVERAGED, teacher__workdir=str(teacher), optim__learning_rate=1e-2)
    states = {}
    copied = lambda step, state, metrics: states.update({step: jax.tree.map(jnp.copy, state)})
    whole = train(config, tmp_path / "whole", hooks=[copied])
    part = tiny_config(**{**AVERAGED, "train__num_steps": 2}, teacher__workdir=str(teacher), optim__learning_rate=1e-2)
    train(part, tmp_path / "run")
    assert same(train(config, tmp_path / "run"), whole)
    known = Run(teacher).configure(clip_x_0=False)
    own, span = dict(states[1].params), states[1].params["span"]
    del own["span"]  # the learning rate is 0 in the first step
    assert same(own, known.params)
    assert not jnp.any(span["dense_1"]["kernel"])
    assert jnp.any(whole.params["span"]["dense_1"]["kernel"])
    opened = Run(tmp_path / "run")
    x_t, until = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32), jnp.array([0.0, 3.0])
    level = factory.noise_schedule(known.config).level(np.array([16.0, 9.0]))
    taught, first = (
        factory.denoiser(run.config, run.model)(params, jnp.zeros(2, jnp.int32))
        for run, params in ((known, known.params), (opened, states[1].params))
    )
    np.testing.assert_array_equal(first(x_t, level._replace(until=until)).x_0, taught(x_t, level).x_0)
    last = factory.denoiser(opened.config, opened.model)(opened.params, jnp.zeros(2, jnp.int32))
    assert jnp.any(last(x_t, level._replace(until=until)).x_0 != last(x_t, level).x_0)
    assert [opened.chain(steps).num_steps for steps in (0, 2)] == [1, 2]
    assert opened.sample(2).shape == (2, 8, 8, 1)
    with pytest.raises(UserError, match="sampler=mean_flow needs a network that is told where a step ends"):
        known.configure(sampler="mean_flow").chain(1)
    with pytest.raises(ValueError, match="this network has no input for the end of a step"):
        taught(x_t, level._replace(until=until))


def test_a_student_of_mean_flow_teaches_only_its_like(tmp_path):
    first = saved(tmp_path / "first", tiny_config(**AVERAGED, teacher__workdir="x"))
    with pytest.raises(UserError, match=r"first cannot teach this run: .*is told where a step ends") as error:
        train(tiny_config(**STUDENT, teacher__workdir=str(first)), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_network_of_a_program_is_not_told_where_a_step_ends(teacher, tmp_path):
    config = student(teacher, **AVERAGED)
    config.distil.first_steps, config.distil.stage_steps = 64, 50_000
    with pytest.raises(UserError, match=r"^config.distil.method=mean_flow needs the network of config.model"):
        train(config, tmp_path / "run", network=Small())
