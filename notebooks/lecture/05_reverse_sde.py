# %% [markdown]
# ## 5. Denoising as DDPM is Anderson's reverse SDE
#
# When steps become small, noising is an SDE. Its drift f and diffusion g follow from the discrete step, and its densities $q(x, t)$ obey
# the Fokker-Planck equation (W is the Wiener process):
#
# $$dx = f\,dt + g\,dW, \qquad f = -\frac{\beta(t)}{2} x, \qquad g = \sqrt{\beta(t)}, \qquad \frac{\partial q}{\partial t} = -\nabla \cdot (f q) + \frac{g^2}{2} \Delta q .$$
#
# By Anderson's theorem its time reversal is an SDE too, which has the same densities at every time:
#
# $$dx = \left[f - g^2\,\nabla\log q(x_t)\right]dt + g\,d\bar W .$$
#
# The ancestral sampler of DDPM discretises it. It is diverse and slow, and it draws from a distribution in each step.
#
# [`diffusion/samplers/ancestral.py`](../ddpm_jax/diffusion/samplers/ancestral.py),
# [`diffusion/samplers/sde.py`](../ddpm_jax/diffusion/samplers/sde.py); `test_lecture_05.py`,
# `test_sde.py::test_the_limit_of_the_ancestral_step_is_euler_maruyamas`

# %%
# figure: 05_reverse_sde
shown = [1000, 400, 200, 80, 0]
ddpm, reverse_sde = dj.samplers.ancestral(dj.Variance.SMALL), dj.samplers.euler_maruyama()
runs_of = [
    chain(sampler, mixture.denoiser, x_T=x_T, trajectory=True) for sampler in (ddpm, reverse_sde)
]
plots.clouds(
    [xs[1000 - t] for xs in runs_of for t in shown],
    2 * [lambda x, t=t: mixture.log_prob(x, schedule.level(t)) for t in shown],
    titles=[f"t = {t:,}" for t in shown],
    rows=["DDPM", "reverse SDE"],
)

# %% [markdown]
# **What you should see.** Time runs from left to right, from noise to data. In every panel the dots (the chain) lie as the blue density of the
# noisy data, and the two rows look alike: the ancestral sampler and Euler-Maruyama steps of the reverse SDE are the same process, up to
# $\beta^2$ in each step.
#
# *Where is the diversity?* Below the data are numbers, a mixture of three Gaussians, and all chains start from **one** $x_T$.

# %%
numbers = dj.analytic.GaussianMixture([0.3, 0.4, 0.3], [[-1.2], [0.1], [1.3]], 3 * [[[0.02]]])
one_start = jnp.full((400, 1), 0.5)
xs = chain(ddpm, numbers.denoiser, x_T=one_start, trajectory=True)[..., 0]
ends = numbers.log_prob_label(xs[-1][:, None]).argmax(axis=1)
print("share of the chains that end in each mode:", np.bincount(ends) / 400)

# %%
# figure: 05_diversity
figure, [axes] = plots.panels(1, width=8, height=3.2)
plots.history(axes, numbers.log_prob, schedule, extent=3)
plots.fan(axes, np.arange(1000, -1, -10), xs[::10, :12], groups=ends[:12])
axes.set(title="12 chains of DDPM from one x_T, coloured by the mode in which they end")
figure

# %% [markdown]
# **What you should see.** Blue is the density of $x_t$, from noise at the left to three modes at the right. The chains start at one point,
# spread over the whole density before t = 800, and part for good between t = 300 and t = 100. The modes have their shares, 0.3, 0.4 and
# 0.3, although there was only one start: the noise of the steps makes the diversity. For data of variance 1 the start determines
#
# $$\frac{\operatorname{Var} \mathbb E[x_0 \mid x_T]}{\operatorname{Var} x_0} = \bar\alpha_T = 0.00004$$
#
# of the variance. The same with digits: one $x_T$, seven chains.

# %%
one_image = jnp.repeat(jax.random.normal(jax.random.key(5), (1, 8, 8, 1)), 7, 0)
times = dj.timesteps.trailing(schedule, 200)  # 1000, 995, ..., 5, 0
found = chain(ddpm, remembered.denoiser, times, x_T=one_image, trajectory=True)
nearest = [int(np.argmin(((digits - x) ** 2).sum((1, 2, 3)))) for x in np.asarray(found[-1])]
plots.strips(
    [found[(1000 - t) // 5] for t in (1000, 500, 250, 0)],
    rows=["t = 1,000", "t = 500", "t = 250", "t = 0"],
    columns=[f"to class {labels[i]}" for i in nearest],
)

# %% [markdown]
# **What you should see.** The first row is the same noise seven times. The chains end at different digits of different classes. Section 6 removes the
# noise: then one start has one end, and all diversity is in the start.
#
# ### Exercises
#
# **1.** What happens if the score is left out of the reverse SDE? Follow the variance of x from 1 at t = T to t = 0.
#
# <details><summary>Answer</summary>
#
# The drift f shrinks x in the direction of noise, so backwards it stretches it, and the noise is added on top: the variance grows without
# limit. In small steps, $dv = (\beta v + \beta)\,d\tau$, so that $v + 1$ is multiplied by $1 / \bar\alpha_T$.
#
# ```python
# v = 1.0
# for beta in schedule.beta[::-1]:
#     v = v / (1 - beta) + beta
# assert np.isclose((v + 1) / 2 * schedule.alpha_bar[-1], 1, rtol=0.02)
# ```
#
# </details>
#
# **2.** Data are $\mathcal N(0, 1)$. Write the reverse SDE down. What does it do?
#
# <details><summary>Answer</summary>
#
# The noisy density is the standard normal at every t, so the score is $-x$, and the drift over a step is $\beta x / 2 - \beta x = -\beta x / 2$: it is the
# noising process again. A process whose density never changes looks the same in both directions.
#
# ```python
# white, move = dj.analytic.Gaussian([0.0], [[1.0]]), schedule.level(500)
# x = jnp.linspace(-2, 2, 5)[:, None]
# score = dj.prediction.score(white.denoiser(x, move), move)
# assert np.allclose(x / 2 + score, -x / 2, atol=1e-6)
# ```
#
# </details>
#
# **3.** Start the chains of one number from one point at t = 100 instead of t = 1,000. What is the variance of their ends, in comparison with
# that of all data?
#
# <details><summary>Answer</summary>
#
# It is almost zero: at t = 100 the mode is decided, and only the place within it is left to the noise.
#
# ```python
# late = chain(ddpm, numbers.denoiser, np.arange(100, -1, -1), x_T=jnp.full((400, 1), 1.2))
# assert late.var() < 0.03 * xs[-1].var()
# ```
#
# </details>
