# %% [markdown]
# ## 14. Fourier: the outline first, the detail last
#
# A function of period 1 is a sum of waves, and the waves are orthogonal, so every coefficient is an inner product:
#
# $$f(x) = a_0 + \sum_{k \ge 1} \left( a_k \cos 2\pi k x + b_k \sin 2\pi k x \right), \qquad
# a_k = 2 \int_0^1 f(x) \cos(2\pi k x)\, dx, \quad b_k = 2 \int_0^1 f(x) \sin(2\pi k x)\, dx .$$
#
# A derivative multiplies the coefficients at frequency $k$ by $2\pi k$. So a function whose derivative exists has small coefficients at
# high frequencies: *smooth* means that $a_k^2 + b_k^2$ falls quickly.
#
# [`diffusion/spectrum.py`](../ddpm_jax/diffusion/spectrum.py), [`models/layers.py`](../ddpm_jax/models/layers.py): `timestep_embedding`;
# `test_spectrum.py::test_low_frequencies_settle_first_and_where_their_snr_is_one`

# %%
# figure: 14_fourier
x, k = (np.arange(20000) + 0.5) / 20000, np.arange(1, 41)[:, None]  # points of one period
cos, sin = np.cos(2 * np.pi * k * x), np.sin(2 * np.pi * k * x)
waves = {"step": np.where(x < 0.5, 1.0, -1.0), "triangle": 1 - 4 * np.abs(x - 0.5)}
waves["smooth"] = (0.6 * cos[0] - 0.36) / (1.36 - 1.2 * cos[0])  # the sum of 0.6**k cos(2 pi k x)
size = {name: np.hypot(2 * (f * cos).mean(1), 2 * (f * sin).mean(1)) for name, f in waves.items()}
figure, (products, functions, falling) = plots.panels(3, height=3.3)
names = [f"{wave} {i}" for wave in ("cos", "sin") for i in (1, 2, 3)]
plots.inner_products(products, [*cos[:3], *sin[:3]], names)
plots.lines(functions, x, waves, xlabel="x", title="three functions", ylim=(-1.2, 2.3))
plots.decay(falling, size)
figure

# %% [markdown]
# **What you should see.** Left: the inner product of two different waves is 0, and that of a wave with itself is 1/2. Middle and right:
# the step jumps, and its coefficients fall as $1/k$; the triangle has a jump in its derivative only, and they fall as $1/k^2$; the smooth
# function has every derivative, and its coefficients fall as $0.6^k$, faster than every power of $k$.
#
# In an image the waves run in all directions. A **band** is a ring of waves with about the same number of periods across the image.

# %%
band = dj.spectrum.band_index(8, 8)
fourier = np.fft.fft2(digits[[0, 12, 5]], axes=(1, 2))
partial = [np.fft.ifft2(fourier * (band <= k)[..., None], axes=(1, 2)).real for k in range(7)]
shown = [0, 1, 2, 3, 4, 6]
plots.strips(np.stack([partial[k] for k in shown], 1), columns=[f"up to {k}" for k in shown])

# %% [markdown]
# **What you should see.** Three digits, each as the sum of its waves of up to 0, 1, 2, 3, 4 and 6 periods across the image. Waves of up to
# two periods give the outline, from which the digit can be told; the others give sharp edges.
#
# Noise has the same power at every frequency, and an image has less the higher the frequency. So each band $k$ has a signal-to-noise
# ratio of its own, with $S_k$ the power of the band in clean images, without the mean image, which is the same for all:
#
# $$\mathrm{SNR}_k(t) = \frac{\bar\alpha_t}{1 - \bar\alpha_t}\, S_k .$$

# %%
# figure: 14_coarse_first
grid = dj.timesteps.trailing(schedule, 20 if smoke else 100)
x, best = jax.random.normal(jax.random.key(12), (4 if smoke else 48, 8, 8, 1)), remembered.denoiser
xs = chain(dj.samplers.ancestral(dj.Variance.SMALL), best, grid, x_T=x, trajectory=True)
denoise = jax.jit(lambda x_t, level: best(x_t, level).x_0)
estimates = [denoise(x_t, schedule.level(t)) for x_t, t in zip(xs[:-1], grid[:-1])] + [xs[-1]]
power_of = lambda x: dj.spectrum.band_power(x - digits.mean(axis=0)).mean(axis=0)
power = np.stack([power_of(estimate) for estimate in estimates])
figure, axes = plots.panels(2, width=5.2, height=3.4)
plots.band_snr(axes[0], schedule, power_of(digits), first=1)
plots.settling(axes[1], grid, power / power[-1], first=1)
figure

# %%
times = [900, 700, 500, 400, 300, 200, 100, 0]
frames = [int(np.argmin(np.abs(grid - t))) for t in times]
rows = np.stack([[xs[i][3] for i in frames], [estimates[i][3] for i in frames]])
plots.strips(rows, columns=[f"t = {t}" for t in times], rows=["x_t", "estimate of x_0"])

# %% [markdown]
# **What you should see.** Time runs from left to right as in the reverse process. Left: the low bands rise above the noise (1, the grey line)
# first; a dot marks the time. Right: the power of the estimate $E[x_0 \mid x_t]$ in each band, as a share of its final value: the bands settle
# (the mean brightness, 0 periods, is left out: it hardly differs between digits) in the order of their frequencies. If digits were Gaussian, each band would pass 1/2 exactly at its dot. They are not: the low bands show which
# digits are still possible, and so the high bands are known before their own signal rises above the noise.
# Below: the estimate of $x_0$ is first the blurred mean of many digits and then becomes sharp, while $x_t$ is still noisy.
#
# The network that predicts the noise is a **U-Net**: it halves the resolution, so that a 3x3 convolution sees a large part of the image and
# hence the low frequencies, and doubles it again; skip connections carry the high frequencies past the narrow middle.

# %%
# figure: 14_unet
network = dj.factory.network(dj.experiment("digits_conditional"))
plots.unet(network, image_size=8)

# %% [markdown]
# **What you should see.** The U-Net of the digits, as its configuration describes it. A box has the height, width and channels of its result. The
# time enters every residual block as a vector of sines and cosines of many frequencies, to which the vector of the class is added (ten classes
# and the null label of step 17).

# %%
code = dj.timestep_embedding(jnp.arange(0.0, 1000, 5), 64)
figure, (channels, products) = plots.panels(2, width=4.8)
channels.imshow(code.T, aspect="auto", cmap="PuOr", extent=(0, 1000, 64, 0))
channels.set(xlabel="t", ylabel="channel", title="embedding of t")
channels.grid(visible=False)
for t in (200, 500, 800):
    products.plot(np.arange(0, 1000, 5), code @ code[t // 5] / 32, label=f"with t = {t}")
products.set(xlabel="t", title="inner product of two embeddings / 32", ylim=(-0.2, 1.05))
products.legend()
figure

# %% [markdown]
# **What you should see.** Left: the upper 32 channels are sines and the lower 32 cosines, from fast to slow. Right: the inner product of the embeddings of
# two times has its maximum, 1, where the times are equal, and depends on their difference alone: the three curves have one shape. So near times
# look alike to the network, and distant ones do not.

# %% [markdown]
# ### Exercises
#
# **1.** A sawtooth is $f(x) = x - 1/2$ on $[0, 1)$, continued with period 1. Does it have a jump? How fast do its coefficients fall? Compare $b_k$ with
# your answer.
#
# <details><summary>Answer</summary>
#
# It jumps from 1/2 to -1/2 at every whole number, so its coefficients fall as $1/k$. Integration by parts gives $a_k = 0$ and $b_k = -1/(\pi k)$.
#
# ```python
# x, k = (np.arange(20000) + 0.5) / 20000, np.arange(1, 9)
# b = 2 * np.mean((x - 0.5) * np.sin(2 * np.pi * k[:, None] * x), axis=1)
# assert np.allclose(b, -1 / (np.pi * k), atol=1e-6)
# ```
#
# </details>
#
# **2.** At which time $t$ has band 3 of the digits as much power as the noise? Give the condition on $\bar\alpha_t$ first.
#
# <details><summary>Answer</summary>
#
# $\mathrm{SNR}_k = 1$ means $\bar\alpha_t S_k = 1 - \bar\alpha_t$, hence $\bar\alpha_t = 1 / (1 + S_k)$.
#
# ```python
# S = np.asarray(dj.spectrum.band_power(digits).mean(axis=0))
# t = int(np.argmin(np.abs(schedule.alpha_bar - 1 / (1 + S[3]))))
# level = schedule.level(t)
# print("t =", t)
# assert abs(level.signal**2 * S[3] / level.sigma**2 - 1) < 0.02
# ```
#
# </details>
#
# **3.** Multiply an image by 2. By which factor does the power of each of its bands change, and do the bands settle earlier or later in the reverse process?
#
# <details><summary>Answer</summary>
#
# By 4, so every ratio $\mathrm{SNR}_k$ is four times as large, and every band settles earlier, at a larger $t$. This is why the range of the pixels
# (here -1 to 1) and the schedule belong together.
#
# ```python
# once, twice = (np.asarray(dj.spectrum.band_power(c * digits).mean(axis=0)) for c in (1, 2))
# assert np.allclose(twice, 4 * once, rtol=1e-5)
# equal = [[np.argmin(np.abs(schedule.alpha_bar - 1 / (1 + s))) for s in power] for power in (once, twice)]
# assert np.all(np.greater(equal[1], equal[0]))
# ```
#
# </details>
