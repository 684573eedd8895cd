# %% [markdown]
# ## 1. Quality, diversity, speed: pick two
#
# A generative model should draw images that look real (*quality*), of all kinds that occur (*diversity*), at little cost (*speed*). A
# GAN is fast and sharp, but may leave out a part of the data. A VAE is fast and diverse, but blurred. Diffusion is sharp and
# diverse, but slow: it evaluates its network once in each of many steps.
#
# Here the data are points of the plane, so all three can be seen. *Precision* is the share of samples that lie among the data, *recall*
# the share of the data that lie among the samples, and the *Frechet distance* compares mean and covariance:
#
# $$d^2 = \Vert \mu_a - \mu_b \Vert^2 + \operatorname{tr} \left( \Sigma_a + \Sigma_b - 2 (\Sigma_a \Sigma_b)^{1/2} \right) .$$
#
# Two stand-ins show the weaknesses: *one mode* draws only from one of the three Gaussians (as a GAN does whose modes have collapsed), and
# *one Gaussian* has the mean and the covariance of all data (as a VAE with a simple decoder). The others are diffusion with the exact
# denoiser.
#
# [`metrics/precision_recall.py`](../ddpm_jax/metrics/precision_recall.py); `test_precision_recall.py`, `test_lecture_01.py`

# %%
num = 200 if smoke else 1000
real, start = (
    mixture.sample(jax.random.key(3), num),
    jax.random.normal(jax.random.key(4), (num, 2)),
)


def diffusion(sampler, steps):
    moves = schedule.transitions(dj.timesteps.trailing(schedule, steps))
    options = {"x_T": start, "transitions": moves}
    return jax.jit(lambda: dj.sample(sampler, mixture.denoiser, keys(num), **options))


# %%
one_mode = mixture.components[1]
one_gaussian = dj.analytic.Gaussian(mixture.mean, mixture.covariance)
ddpm, ddim = dj.samplers.ancestral(dj.Variance.SMALL), dj.samplers.ddim()
generators = {  # how it draws, and the evaluations of the network that a sample takes
    "one mode": (jax.jit(lambda: one_mode.sample(key, num)), 1),
    "one Gaussian": (jax.jit(lambda: one_gaussian.sample(key, num)), 1),
    "DDIM, 5 steps": (diffusion(ddim, 5), 5),
    "DDIM, 20 steps": (diffusion(ddim, 20), 20),
    "DDPM, 20 steps": (diffusion(ddpm, 20), 20),
    "DDPM, 1,000 steps": (diffusion(ddpm, 20 if smoke else 1000), 1000),
}

# %%
import time

from ddpm_jax.metrics.frechet import Moments, frechet_distance, moments

exact = Moments(None, mixture.mean, mixture.covariance)


# %%
def measured(draw):
    samples, seconds = draw(), []  # the first call compiles
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready(draw())
        seconds.append(time.perf_counter() - begin)
    distance = frechet_distance(exact, moments(samples))
    return samples, *dj.precision_recall(real, samples), distance, num / min(seconds)


# %%
table = {name: measured(draw) for name, (draw, _) in generators.items()}
print(f"{'':20}precision  recall  distance  evaluations  samples/s")
for name, (_, precision, recall, distance, speed) in table.items():
    numbers = f"{precision:9.2f}{recall:8.2f}{distance:10.3f}"
    print(f"{name:20}{numbers}{generators[name][1]:13,}{speed:11,.0f}")

# %%
# figure: 01_trilemma
titles = [
    f"{name}\nprecision {precision:.2f}, recall {recall:.2f}\n"
    f"distance {distance:.3f}, evaluations {generators[name][1]:,}"
    for name, (_, precision, recall, distance, _) in table.items()
]
samples = [row[0] for row in table.values()]
plots.clouds(samples, [mixture.log_prob] * 6, titles=titles, columns=3, extent=1.9, size=2.6)

# %% [markdown]
# **What you should see.** Dots are samples, blue is the density of the data. *One mode* is precise, but its recall is small and its
# distance large. *One Gaussian* reaches all data, but about half of its points lie where there are none; its distance is nevertheless
# almost zero, because it has the right mean and covariance, and that is all that the distance sees. Therefore one reads several numbers.
# Five steps of DDIM are fast, but many of their points have stopped between the modes. With 20 steps only a few have, and with 1,000
# steps of DDPM the samples lie as the data do. More evaluations buy quality and diversity: that is the price of diffusion, and the last
# column of the table shows it in samples per second.
#
# ### Exercises
#
# **1.** What share of the data does *one mode* leave out, and why is its precision close to 1?
#
# <details><summary>Answer</summary>
#
# The mode has a weight of 0.4, so 60 % of the data are left out, and recall can hardly be above 0.4. Each of its samples is a point that
# the data could have, so that nearly all lie among the data.
#
# ```python
# _, precision, recall, _, _ = table["one mode"]
# assert precision > 0.9
# assert abs(recall - 0.4) < 0.1
# ```
#
# </details>
#
# **2.** A generator draws from the data, but multiplies each sample by 0.8. Does the Frechet distance see it? Compute it from the exact
# moments.
#
# <details><summary>Answer</summary>
#
# Yes: the mean is multiplied by 0.8 and the covariance by 0.64, so that the distance is 0.04 times the mean square of the data.
#
# ```python
# shrunk = Moments(None, 0.8 * mixture.mean, 0.64 * mixture.covariance)
# mean_square = np.sum(mixture.mean**2) + np.trace(mixture.covariance)
# assert np.isclose(frechet_distance(exact, shrunk), 0.2**2 * mean_square)
# ```
#
# </details>
#
# **3.** You can afford 39 evaluations per image. How many steps is that with DDIM, and with Heun? And with 40?
#
# <details><summary>Answer</summary>
#
# 39 and 20, since N steps of Heun take 2 N - 1 evaluations; with 40 they are 40 and still 20.
#
# ```python
# evaluations = {"DDIM": lambda steps: steps, "Heun": lambda steps: 2 * steps - 1}
# most = lambda name, budget: max(n for n in range(1, 100) if evaluations[name](n) <= budget)
# assert [most("DDIM", 39), most("Heun", 39)] == [39, 20]
# assert [most("DDIM", 40), most("Heun", 40)] == [40, 20]
# ```
#
# </details>
