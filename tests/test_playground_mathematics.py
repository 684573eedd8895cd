"""The JavaScript of the playground gives the numbers of the package: posterior, denoiser, chains, measures, network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.analytic import ALL_SCHEDULES, keys
from support.playground import FOLDER, flat, mixture_of, told

import ddpm_jax as dj
from ddpm_jax.diffusion import guidance, samplers, timesteps
from ddpm_jax.diffusion.analytic import FiniteData, GaussianMixture
from ddpm_jax.diffusion.arrays import noise_like
from ddpm_jax.diffusion.spectrum import band_power, forward_power
from ddpm_jax.evaluation import playground
from ddpm_jax.metrics import frechet, precision_recall

SCHEDULES = ["linear", "quadratic", "sigmoid", "cosine"]
GRIDS = {"trailing": timesteps.trailing, "uniform": timesteps.uniform, "quadratic": timesteps.quadratic,
         "log_snr": timesteps.log_snr, "karras": timesteps.karras}  # fmt: skip
SAMPLERS = {
    "ancestral": (0, samplers.ancestral(samplers.Variance.SMALL)),
    "ddim": (0, samplers.ddim()),
    "ddim with noise": (0.6, samplers.ddim(0.6)),
    "heun": (0, samplers.heun()),
    "dpm_solver_pp_2m": (0, samplers.dpm_solver_pp_2m()),
}

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def digits():
    """The digits of the training set in [-1, 1], in float64, and their classes."""
    split = dj.Digits("train")
    examples = [split[i] for i in range(len(split))]
    return np.stack([one["image"] for one in examples]) / 127.5 - 1, np.array([one["label"] for one in examples])


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_and_every_grid_on_it_are_those_of_the_package(page, name):
    schedule, times = ALL_SCHEDULES[name](1000), [1, 1.5, 17, 333.3, 999.25, 1000]
    body = """
    const schedule = schedules.SCHEDULES[name](1000), levels = times.map((t) => schedule.level(t));
    const grids = {}, time = levels.map((level) => schedule.time(level.log_snr));
    for (const grid in timesteps.GRIDS) grids[grid] = lists(counts.map((n) => timesteps.GRIDS[grid](schedule, n)));
    return {alpha_bar: Array.from(schedule.alpha_bar), levels, time, grids};
    """
    counts = [1, 2, 3, 7, 8, 50, 1000]
    found = told(page, body, name=name, times=times, counts=counts)
    np.testing.assert_allclose(found["alpha_bar"], schedule.alpha_bar, rtol=1e-11)
    level = schedule.level(times)
    for field in ("signal", "sigma", "log_snr"):
        values = np.asarray(level.log_snr) if field == "log_snr" else getattr(level, field)
        np.testing.assert_allclose([one[field] for one in found["levels"]], values, rtol=1e-5)
    np.testing.assert_allclose(found["time"], times, rtol=1e-6)
    for grid, make in GRIDS.items():
        for n, its in zip(counts, found["grids"][grid], strict=True):
            np.testing.assert_allclose(its, make(schedule, n), rtol=1e-6, err_msg=f"{grid} {n}")


def test_the_digits_of_the_page_are_those_of_the_package(page):
    split = dj.Digits("all")
    body = "return {x: Array.from(worlds.images(0, 1797)), labels: modules.digits.labels, n: modules.digits.num_train}"
    found = told(page, body)
    images = np.stack([split[i]["image"] for i in range(len(split))])
    np.testing.assert_array_equal(dj.to_uint8(np.reshape(found["x"], images.shape)), images)
    assert found["labels"] == "".join(str(split[i]["label"]) for i in range(len(split)))
    assert found["n"] == len(dj.Digits("train"))
    assert (FOLDER / "digits.js").read_text() == playground.digits_script()


DENOISED = """
const model = name === "digits" ? worlds.world("digits").model : worlds.world("plane", name).model;
return levels.map((level, i) => {
  const at = floats(x[i]), {x_0, eps} = model.denoiser(at, level), posterior = model.log_posterior(at, level);
  const log_prob = model.log_prob ? model.log_prob(at, level)[0] : null, [a, b, c] = lists([x_0, eps, posterior]);
  return {x_0: a, eps: b, posterior: c, perplexity: arrays.perplexity(posterior), log_prob};
});
"""


def exact(name, page, digits):
    """The distribution of the package that a world of the page is, and the log posterior of its originals."""
    if name == "digits":
        data = FiniteData(digits[0])
        return data, data.log_prob_point
    mixture = GaussianMixture(*mixture_of(page, name)[:3])
    return mixture, mixture.log_prob_label


@pytest.mark.parametrize("name", ["ring", "clusters", "digits"])
def test_posterior_perplexity_denoiser_and_density_are_exact(page, digits, x64, name):
    data, log_posterior = exact(name, page, digits)
    level = dj.schedules.linear(1000).level([1000, 700, 400, 250, 120, 60, 30, 2.5])
    x_0 = data.sample(jax.random.key(3), 8)
    x = dj.q_sample(x_0, jax.random.normal(jax.random.key(4), x_0.shape), level)
    names = ("t", "signal", "sigma")
    levels = [dict(zip(names, leaves, strict=True)) for leaves in zip(*map(list, level[:3]), strict=True)]
    found = told(page, DENOISED, name=name, x=[flat(one) for one in x], levels=levels)
    its = {field: [one[field] for one in found] for field in found[0]}
    prediction, log_weight = data.denoiser(x, level), np.asarray(log_posterior(x, level))
    weight = np.exp(log_weight)
    np.testing.assert_allclose(its["x_0"], prediction.x_0.reshape(8, -1), atol=1e-8)
    np.testing.assert_allclose(its["eps"], prediction.eps.reshape(8, -1), atol=1e-6)
    np.testing.assert_allclose(np.exp(its["posterior"]), weight, atol=1e-9)
    perplexity = np.exp(-np.sum(weight * np.where(weight > 0, log_weight, 0), axis=1))
    np.testing.assert_allclose(its["perplexity"], perplexity, rtol=1e-8)
    if name != "digits":
        np.testing.assert_allclose(its["log_prob"], data.log_prob(x, level), rtol=1e-9)


CHAIN = """
const world = name === "digits" ? worlds.world("digits") : worlds.world("plane", name);
const schedule = schedules.SCHEDULES[of](1000);
const steps = schedule.transitions(timesteps.GRIDS.trailing(schedule, noise.length));
const step = samplers.SAMPLERS[sampler](eta), z = noise.map(floats);
return lists(samplers.sample(step, world.denoiser(label, scale), floats(x_T), steps, (n) => z[n]));
"""


@pytest.mark.parametrize(
    ("name", "sampler"), [*(("clusters", sampler) for sampler in SAMPLERS), ("digits", "ddim with noise")]
)
def test_every_sampler_takes_the_same_chain_for_the_same_noise(page, digits, x64, sampler, name):
    data, _ = exact(name, page, digits)
    schedule, num_steps, image_keys = dj.schedules.cosine(1000), 20, keys(3)
    x_T = jax.random.normal(jax.random.key(1), (3, *(data.points if name == "digits" else data.means).shape[1:]))
    eta, method = SAMPLERS[sampler]
    transitions = schedule.transitions(timesteps.trailing(schedule, num_steps))
    expected = samplers.sample(method, data.denoiser, image_keys, x_T=x_T, transitions=transitions, trajectory=True)
    step_keys = jax.vmap(lambda n: jax.vmap(jax.random.fold_in, (0, None))(image_keys, n))(jnp.arange(num_steps))
    noise = np.asarray(jax.vmap(noise_like, (0, None))(step_keys, x_T)).reshape(num_steps, -1).tolist()
    found = told(page, CHAIN, name=name, of="cosine", sampler=sampler.split()[0], eta=eta, label=None, scale=1,
                 x_T=flat(x_T), noise=noise)  # fmt: skip
    np.testing.assert_allclose(found, np.reshape(expected, (num_steps + 1, -1)), atol=1e-5)


@pytest.mark.parametrize(("name", "scale"), [("clusters", 1), ("clusters", 3.5), ("digits", 3.5)])
def test_guidance_is_classifier_free_guidance_by_the_exact_denoisers(page, digits, x64, name, scale):
    label = 1
    if name == "digits":
        images, labels = digits
        whole, part = FiniteData(images), FiniteData(images[labels == label])
    else:
        weights, means, covariances, label_of = mixture_of(page, name)
        chosen = label_of == label
        whole = GaussianMixture(weights, means, covariances)
        part = GaussianMixture(weights[chosen] / weights[chosen].sum(), means[chosen], covariances[chosen])
    level = dj.schedules.linear(1000).level(350)
    x = jax.random.normal(jax.random.key(2), (4, *whole.sample(jax.random.key(0), 1).shape[1:]))
    both = guidance.side_by_side(part.denoiser, whole.denoiser)
    expected = guidance.classifier_free(both, scale)(x, level)
    body = """
    const world = name === "digits" ? worlds.world("digits") : worlds.world("plane", name);
    const {x_0, eps} = world.denoiser(label, scale)(floats(x), level);
    return lists([x_0, eps]);
    """
    given = {"t": 350, "signal": float(level.signal), "sigma": float(level.sigma)}
    found = told(page, body, name=name, label=label, scale=scale, x=flat(x), level=given)
    np.testing.assert_allclose(found, [flat(expected.x_0), flat(expected.eps)], atol=1e-8)


def test_spectra_and_measures_are_those_of_the_package(page, digits):
    body = """
    const power = spectrum.band_power_of(8), points = [real, generated].map(floats);
    const {precision, recall} = metrics.precision_recall(...points), [a, b] = points.map(metrics.moments);
    const forward = spectrum.forward_power([4, 0.5], {signal: 0.6, sigma: 0.8});
    const distance = metrics.frechet_distance(a, b);
    return {power: images.map((x) => power(floats(x))), pr: [precision, recall], frechet: distance, forward};
    """
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(150, 2)), rng.normal(size=(120, 2)) @ [[0.6, 0.3], [0, 0.8]] + [0.4, 0]
    found = told(page, body, images=[flat(x) for x in digits[0][:5]], real=flat(real), generated=flat(generated))
    np.testing.assert_allclose(found["power"], band_power(digits[0][:5]), rtol=1e-4)
    np.testing.assert_allclose(found["pr"], precision_recall.precision_recall(real, generated), atol=1e-12)
    expected = frechet.frechet_distance(frechet.moments(real), frechet.moments(generated))
    np.testing.assert_allclose(found["frechet"], expected, rtol=1e-8)
    level = dj.NoiseLevel(t=1.0, signal=0.6, sigma=0.8)
    np.testing.assert_allclose(found["forward"], forward_power(np.array([4, 0.5]), level))


@pytest.mark.parametrize("name", ["spiral", "clusters"])
def test_the_moments_of_a_mixture_are_exact(page, name):
    mean, cov = told(
        page, 'const {mean, cov} = worlds.world("plane", name).model.moments(); return [mean, cov]', name=name
    )
    mixture = GaussianMixture(*mixture_of(page, name)[:3])
    np.testing.assert_allclose(mean, mixture.mean, atol=1e-12)
    np.testing.assert_allclose(cov, mixture.covariance[[0, 0, 1], [0, 1, 1]], atol=1e-12)


def test_the_noise_of_the_page_is_standard_normal_and_that_of_an_image_depends_on_it_alone(page):
    body = """
    const {noise} = arrays;
    return lists([noise(3, 500, 64, 2), noise(3, 1, 64, 2, 499), noise(4, 1, 64, 2), noise(3, 1, 64, 3)]);
    """
    many, last, *others = map(np.array, told(page, body))
    np.testing.assert_array_equal(many[-64:], last)
    moments = [np.mean(many**k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(
        moments, [0, 1, 0, 3], atol=0.1
    )  # 32,000 numbers: the fourth has a standard error of 0.055
    for other in others:
        assert np.abs(np.corrcoef(many[:64], other)[0, 1]) < 0.5


def test_the_network_gives_what_flax_gives_with_the_same_rounded_weights(page):
    """With two levels and attention, as in the default run, and random parameters."""
    model = dj.UNet(dj.Architecture(8, (1, 2), 1, attention_resolutions=(4,), norm_groups=4), out_channels=1)
    rng, times = np.random.default_rng(0), [1, 17.5, 400, 1000]
    x = np.float32(rng.normal(size=(4, 8, 8, 1)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, jnp.array(times))["params"]
    params = jax.tree.map(lambda leaf: np.float32(np.float16(rng.normal(0, 0.3, leaf.shape))), shapes)
    page.evaluate(playground.network_script(model.arch, params, dj.schedules.linear(1000), 1))
    body = """
    const {arch, shapes, weights} = modules.network, network = new unet.UNet(arch, unet.parameters(shapes, weights));
    return lists(x.map((image, i) => network.eps(floats(image), times[i])));
    """
    found = told(page, body, x=[flat(image) for image in x], times=times)
    page.evaluate("delete modules.network")
    expected = np.asarray(jax.jit(model.apply)({"params": params}, x, jnp.array(times) - 1)).reshape(4, -1)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.max(np.abs(expected)))


def test_half_precision_is_read_with_its_small_and_negative_numbers(page):
    numbers = np.array([1, -2.5, 6e-8, -3e-5, 65504, 0.1], np.float16)
    found = told(page, "return bits.map(unet.half)", bits=numbers.view(np.uint16).tolist())
    np.testing.assert_array_equal(found, numbers.astype(float))
