"""The plots of rows 14 to 17: the U-Net as the network has it, and panels that show the values that they are given."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import MIXTURE

from ddpm_jax.config import experiment
from ddpm_jax.diffusion.schedules import linear
from ddpm_jax.evaluation import plots
from ddpm_jax.evaluation.plots.network import stages
from ddpm_jax.factory import network


@pytest.mark.parametrize(
    ("name", "size"), [("digits", 8), ("digits_conditional", 8), ("cifar10", 32), ("imagenet64", 64)]
)
def test_the_picture_has_the_shapes_of_the_network(name, size):
    """Every stage is a module of the network, in the order of computation, and its result has the shape in the box."""
    config = experiment(name)
    net = network(config)

    def evaluate(image, index):
        label = jnp.zeros(1, int) if net.num_classes else None
        return net.init_with_output(jax.random.key(0), image, index, label, capture_intermediates=True)[1]

    images = jnp.zeros((1, size, size, config.data.channels))
    found = jax.eval_shape(evaluate, images, jnp.zeros(1))["intermediates"]
    for stage in stages(net, image_size=size):
        inner = found
        for part in stage.name.split("/"):
            inner = inner[part]
        assert inner["__call__"][0].shape == (1, stage.size, stage.size, stage.channels), stage.name
        attends = stage.name.rpartition("/")[2] + "_attention" in found[stage.name.split("/")[0]]
        assert attends == ("self-attention" in stage.kind), stage.name


def test_every_skip_joins_two_stages_of_one_size_and_is_used_once():
    found = stages(network(experiment("cifar10")), image_size=32)
    sizes, taken = {stage.name: stage.size for stage in found}, [stage for stage in found if stage.skip]
    assert all(sizes[stage.skip] == stage.size for stage in taken)
    assert {stage.skip for stage in taken} == {stage.name for stage in found if stage.name.startswith("encoder")}


def test_the_picture_of_the_unet_shows_every_stage_and_the_classes():
    net = network(experiment("digits_conditional"))
    (axes,) = plots.unet(net, image_size=8).axes
    texts = [text.get_text() for text in axes.texts]
    for stage in stages(net, image_size=8):
        assert stage.shape in texts
        assert [int(number) for number in re.findall(r"\d+", stage.shape)] == [stage.size] * 2 + [stage.channels]
    assert "class y: a table of\n11 vectors" in texts
    (axes,) = plots.unet(network(experiment("digits")), image_size=8).axes
    assert not any("class" in text.get_text() for text in axes.texts)


def lines(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_inner_products_are_written_in_their_places():
    _, (axes,) = plots.panels(1)
    x = (np.arange(100) + 0.5) / 100
    plots.inner_products(axes, [np.cos(2 * np.pi * x), np.sin(2 * np.pi * x)], ["cos", "sin"])
    assert [text.get_text() for text in axes.texts] == ["0.5", "0", "0", "0.5"]
    np.testing.assert_allclose(axes.images[0].get_array(), np.eye(2) / 2, atol=1e-12)


def test_decay_draws_what_it_is_given():
    _, (decay,) = plots.panels(1)
    plots.decay(decay, {"a": [1.0, 0.0, 0.5]})
    np.testing.assert_array_equal(lines(decay)["a"], [[1, 1.0], [3, 0.5]])
    np.testing.assert_allclose(lines(decay)["1/k²"][:, 1], [1, 1 / 4, 1 / 9])


def test_a_dot_marks_where_a_band_equals_the_noise():
    _, (axes,) = plots.panels(1)
    schedule, power = linear(1000), np.array([9.0, 4.0, 1.0])
    plots.band_snr(axes, schedule, power, first=1)
    assert [line.get_label() for line in axes.lines if line.get_label().endswith(("period", "periods"))] == [
        "1 period",
        "2 periods",
    ]
    dots = [line.get_xydata()[0, 0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(schedule.alpha_bar[np.array(dots, int)], 1 / (1 + power[1:]), atol=5e-3)


def test_settling_draws_the_bands_from_large_t():
    _, (axes,) = plots.panels(1)
    plots.settling(axes, [10, 5, 0], np.array([[0.1, 0.2], [0.5, 0.4], [1, 1]]))
    np.testing.assert_array_equal(lines(axes)["1 period"], [[10, 0.2], [5, 0.4], [0, 1]])
    assert axes.xaxis_inverted()


def test_the_thick_arrow_is_the_weighted_mean():
    _, (axes,) = plots.panels(1)
    ends = np.array([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    plots.weighted_arrows(axes, [0.5, 0.5], ends, [0.25, 0.75, 0.0])
    (arrow,) = axes.texts
    np.testing.assert_allclose(arrow.xy, [0.25, 1.5])
    drawn = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 2]
    np.testing.assert_allclose(drawn, [[[0.5, 0.5], [1, 0]], [[0.5, 0.5], [0, 2]]])  # none to the end of weight 0


def test_samples_beyond_the_panel_lie_at_its_edge():
    _, (shades, dots) = plots.panels(2)
    plots.contours(shades, MIXTURE.log_prob, extent=2)
    assert len(shades.collections) == 1
    plots.dots(dots, [[0.0, 1.0], [9.0, -9.0]], MIXTURE.log_prob, extent=2)
    inside, beyond = dots.lines
    np.testing.assert_allclose(inside.get_xydata(), [[0, 1]])
    np.testing.assert_allclose(beyond.get_xydata(), [[1.94, -1.94]])


def test_the_cost_of_a_guess_is_marked():
    _, (axes,) = plots.panels(1)
    plots.costs(axes, [1, 2], {"a": [0.5, 3.0]})
    np.testing.assert_array_equal(lines(axes)["classifier a"], [[1, 0.5], [2, 3.0]])
    np.testing.assert_allclose(lines(axes)["a guess"][:, 1], np.log(10))
