# %% [markdown]
# ## 6. Denoising as DDIM follows an ODE
#
# Noise of strength $g$ spreads a density in the same way as a flow along $-\frac12 g^2 \nabla\log q$ does. So, by the Fokker-Planck
# equation, an ODE has the same densities as the noising process, at every time:
#
# $$dx = \left[f - \tfrac12 g^2\,\nabla\log q(x_t)\right] dt .$$
#
# It is the member without noise of a family. For every $\kappa \ge 0$ the reverse-time equation
#
# $$dx = \left[f - \tfrac{1 + \kappa^2}{2} g^2\,\nabla\log q(x_t)\right] dt + \kappa\, g\, d\bar W$$
#
# has these densities. $\kappa = 1$ is Anderson's equation of step 5. DDIM with noise $\eta$ is, for short steps, the family with
# $\kappa = \eta$: $\eta = 0$ is deterministic, $\eta = 1$ is DDPM. The picture shows four chains from each of three starts.
#
# [`diffusion/samplers/ddim.py`](../ddpm_jax/diffusion/samplers/ddim.py); `test_ddim.py::test_ddim_eta_one_is_ancestral`,
# `test_lecture_06.py::test_6_5_every_amount_of_noise_has_the_same_densities`

# %%
# figure: 06_eta
means, variances = [[-1.2], [0.0], [0.9]], [[[0.02]], [[0.01]], [[0.04]]]
line = dj.analytic.GaussianMixture([0.5, 0.2, 0.3], means, variances)
starts = jnp.repeat(jnp.array([[-1.4], [0.3], [1.6]]), 4, axis=0)
figure, axes = plots.panels(2, 2, width=4.3, height=2.5)
for panel, eta in zip(axes, [0.0, 0.1, 0.3, 1.0]):
    xs = chain(dj.samplers.ddim(eta), line.denoiser, x_T=starts, trajectory=True)[..., 0]
    plots.history(panel, line.log_prob, schedule, extent=3)
    plots.paths(panel, np.arange(1000, -1, -1), xs)
    panel.set(title=f"eta = {eta:g}: 3 starts, {len(np.unique(np.round(xs[-1], 3)))} ends")
figure

# %% [markdown]
# **What you should see.** The blue density of noisy data is the same in all panels, and the chains follow it in all of them. With
# `eta = 0` the four chains of a start lie on each other: there are three ends. With `eta = 1`, DDPM, they separate at once, and
# each start leads to all parts of the data. The diversity of DDPM is in its noise; that of DDIM is in $x_T$ alone.
#
# In the variables $\bar x = x/\sqrt{\bar\alpha}$ and $\rho = \sqrt{1-\bar\alpha}/\sqrt{\bar\alpha}$ (the notes write $s$ for
# $\rho$) the ODE is one short line, and DDIM is its Euler step:
#
# $$\frac{d\bar x}{d\rho} = \epsilon_\theta(x, t), \qquad \bar x_s = \bar x_t + (\rho_s - \rho_t)\,\epsilon_\theta(x_t, t) .$$

# %%
level = schedule.level(np.arange(1000, -1, -1))
xs = chain(dj.samplers.ddim(), line.denoiser, x_T=jnp.linspace(-2, 2, 13)[:, None], trajectory=True)
x_bar, rho = xs[..., 0] / level.signal[:, None], level.sigma / level.signal
figure, (in_time, in_ratio) = plots.panels(2, width=4.3)
in_time.plot(level.t, xs[..., 0], color=plots.COLOURS[0], linewidth=0.9)
in_time.set(xlabel="t", ylabel="x_t", title="the flow over time", xlim=(1000, 0))
in_ratio.plot(rho, x_bar, color=plots.COLOURS[1], linewidth=0.9)
in_ratio.set(xlabel="rho", ylabel="x_bar", title="the same flow in x_bar and rho")
in_ratio.set(xlim=(4, 0), ylim=(-6, 6))
figure

# %% [markdown]
# **What you should see.** Over time the lines bend at every $t$. In $\bar x$ and $\rho$ they are nearly straight until $\rho$ is
# about 1, where the data begin to separate. Euler's method is exact on straight lines; therefore DDIM needs few steps.
#
# Why is DDIM stable? Along the flow, almost all starts that are near each other stay near each other; only at a border between two
# modes does the flow part neighbours. The noise of DDPM separates two chains even if their starts are equal. We measure the
# distance of two chains over time, the spread of the ends of *one* start, and the distance of all ends from the data's distribution
# (the mean distance of equal quantiles).

# %%
samplers = {"DDIM": dj.samplers.ddim(), "DDPM": dj.samplers.ancestral(dj.Variance.SMALL)}
n = 200 if smoke else 20_000
share = (jnp.arange(n) + 0.5) / n
grid = np.linspace(-3, 3, 6001)
below = np.cumsum(np.exp(line.log_prob(grid[:, None]))) * (grid[1] - grid[0])
exact, noise = np.interp(share, below, grid), jax.scipy.stats.norm.ppf(share)
both = jnp.concatenate([jnp.full(n, 0.3), noise])[:, None]  # one start n times, and n starts


def ends(sampler, num):
    x_0 = chain(sampler, line.denoiser, dj.timesteps.trailing(schedule, num), x_T=both)
    return np.asarray(x_0).reshape(2, n)

# %%
apart, spread, wrong, steps = {}, {}, {}, [10, 20] if smoke else [10, 20, 50, 100, 250]
for name, sampler in samplers.items():
    pair = [chain(sampler, mixture.denoiser, x_T=x_T[:200] + shift, seed=seed, trajectory=True)
            for seed, shift in enumerate([0.0, 0.01])]
    apart[name] = np.median(np.linalg.norm(pair[1] - pair[0], axis=-1), axis=1)
    drawn = [ends(sampler, num) for num in steps]
    spread[name] = [same.std() for same, _ in drawn]
    wrong[name] = [np.abs(np.sort(different) - exact).mean() for _, different in drawn]
    print(name, *(f"{num} steps: {error:.4f}" for num, error in zip(steps, wrong[name])))
    print(f"  two chains end {apart[name][-1]:.3f} apart; spread:", np.round(spread[name], 2))

# %%
# figure: 06_stability
figure, (first, second, third) = plots.panels(3, width=3.1)
for name, mark in {"DDPM": "^-", "DDIM": "o-"}.items():
    first.semilogy(level.t, apart[name], label=name)
    second.semilogx(steps, spread[name], mark, label=name)
    third.loglog(steps, wrong[name], mark, label=name)
second.axhline(line.covariance[0, 0] ** 0.5, color="black", linestyle=":", label="all data")
first.set(xlabel="t", ylabel="distance", title="distance of two chains", xlim=(1000, 0))
second.set(xlabel="steps", ylabel="standard deviation", title="spread of the ends of one start")
third.set(xlabel="steps", ylabel="Wasserstein distance", title="error of the distribution")
[panel.legend() for panel in (first, second, third)]
figure

# %% [markdown]
# **What you should see.** Left, in the median of 200 pairs: two starts at a distance of 0.014 stay at about that distance along
# DDIM and end even nearer to each other; along DDPM they are soon as far apart as two different images. Middle: from one start
# DDIM has one end, whatever the number of steps; the ends of DDPM have the spread of the whole data set. Right: with few steps the
# ends of DDIM have nearly the data's distribution; the error of DDPM is larger at every number of steps.
#
# A solver of a differential equation has an order: if the step is halved, the error of Euler's method halves, and that of the
# second-order solvers falls to a quarter. Because the flow transports the density, it also gives the likelihood *exactly*:
#
# $$\frac{d \log q(x_t)}{dt} = -\nabla\cdot\left(f - \tfrac12 g^2\,\nabla\log q(x_t)\right).$$
#
# [`diffusion/samplers/ode.py`](../ddpm_jax/diffusion/samplers/ode.py), [`diffusion/ode_likelihood.py`](../ddpm_jax/diffusion/ode_likelihood.py);
# `test_ode_solvers.py::test_solvers_converge_with_their_order`, `test_lecture_06.py::test_6_15_along_the_flow_the_log_density_falls_by_the_divergence`

# %%
def flow(sampler, num):
    times = dj.timesteps.log_snr(schedule, num)
    return chain(sampler, mixture.denoiser, times, x_T=x_T[:64])


solvers = {"DDIM (Euler)": dj.samplers.ddim(), "Heun": dj.samplers.heun(),
           "DPM-Solver++(2M)": dj.samplers.dpm_solver_pp_2m()}
best = flow(solvers["Heun"], 80 if smoke else 800)
steps = [10, 20] if smoke else [10, 20, 40, 80, 160]

# %%
figure, (order, likelihood) = plots.panels(2, width=4)
for name, solver in solvers.items():
    errors = [float(jnp.sqrt(jnp.mean((flow(solver, num) - best) ** 2))) for num in steps]
    order.loglog(np.array(steps) * (2 if name == "Heun" else 1), errors, "o-", label=name)
order.set(xlabel="network evaluations", title="error against the exact flow")
_ = order.legend(loc="lower left")

# %%
upwards = dj.ode_likelihood.ode_steps(schedule, 8 if smoke else 32)
log_prob = lambda x: dj.ode_likelihood.ode_log_prob(mixture.denoiser, x, steps=upwards).nats
by_flow, first = jax.jit(log_prob)(points[:100]), schedule.level(1)
truth = mixture.log_prob(first.signal * points[:100], first) + 2 * np.log(first.signal)
furthest = float(jnp.max(jnp.abs(by_flow - truth)))
likelihood.plot(truth, by_flow, ".", label=f"largest difference {furthest:.0e} nats")
likelihood.axline((0, 0), slope=1, color="grey", linewidth=0.8)
likelihood.set(xlabel="exact log density, nats", ylabel="by the flow, nats", title="likelihood")
likelihood.legend()
figure

# %% [markdown]
# **What you should see.** On logarithmic axes the error of DDIM falls with slope -1 and those of the second-order solvers with
# slope -2. The likelihoods by the flow lie on the diagonal.
#
# ### Exercises
#
# **1.** For Gaussian data $\mathcal N(m, c)$ the flow scales the distance from the mean by the standard deviations. Which $x_0$
# belongs to $x_T = 0.7$ if $m = 0.4$ and $c = 0.09$? Compare with 1,000 steps of DDIM.
#
# <details><summary>Answer</summary>
#
# $x_0 = m + \sqrt{c}\,(x_T - \sqrt{\bar\alpha_T}\,m)/\sqrt{\bar\alpha_T c + 1 - \bar\alpha_T}$, which is 0.609.
#
# ```python
# one, last = dj.analytic.Gaussian([0.4], [[0.09]]), schedule.level(1000)
# std = np.sqrt(last.signal**2 * 0.09 + last.sigma**2)
# expected = 0.4 + 0.3 * (0.7 - last.signal * 0.4) / std
# drawn = chain(dj.samplers.ddim(), one.denoiser, x_T=jnp.array([[0.7]]))
# assert abs(float(drawn[0, 0]) - expected) < 0.01
# ```
#
# </details>
#
# **2.** Do the samples have the covariance of the data for every $\eta$? Draw 500 points with $\eta$ = 0, 0.5 and 1.
#
# <details><summary>Answer</summary>
#
# Yes, up to the error of 500 draws: every member of the family has the same densities.
#
# ```python
# for eta in (0.0, 0.5, 1.0):
#     drawn = chain(dj.samplers.ddim(eta), mixture.denoiser, x_T=x_T)
#     assert np.abs(np.cov(np.asarray(drawn).T) - mixture.covariance).max() < 0.1
# ```
#
# </details>
#
# **3.** How much does the error of DDIM fall if the number of steps is doubled from 20 to 40, and that of Heun's method?
#
# <details><summary>Answer</summary>
#
# By about 2 and by about 4: their orders are 1 and 2.
#
# ```python
# one, times = dj.analytic.Gaussian([0.4], [[0.09]]), lambda num: dj.timesteps.log_snr(schedule, num)[:-1]
# std = [np.sqrt(schedule.level(t).signal**2 * 0.09 + schedule.level(t).sigma**2) for t in (1, 1000)]
# expected = schedule.level(1).signal * 0.4 + (2.0 - schedule.level(1000).signal * 0.4) * std[0] / std[1]
# for sampler, low, high in ((dj.samplers.ddim(), 1.7, 2.3), (dj.samplers.heun(), 3, 5)):
#     ends_of = [chain(sampler, one.denoiser, times(num), x_T=jnp.array([[2.0]])) for num in (21, 41)]
#     errors = [abs(float(end[0, 0]) - expected) for end in ends_of]
#     assert low < errors[0] / errors[1] < high
# ```
#
# </details>
