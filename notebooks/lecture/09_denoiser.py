# %% [markdown]
# ## 9. The network estimates an average
#
# Many images could have led to this $x_t$. The prediction with the least squared error is the average over all of them, weighted by their
# probabilities:
#
# $$\epsilon^*(x_t, t) = \int \epsilon(x_t \mid x_0)\, q(x_0 \mid x_t)\, dx_0 .$$
#
# For a finite data set the integral is a sum over its images, so the ideal network has a closed form. At large $t$ it predicts the average
# of all digits, at smaller $t$ the average of a few similar digits, and at the end a single digit.
#
# [`diffusion/analytic.py`](../ddpm_jax/diffusion/analytic.py): `FiniteData`; `test_prediction.py::test_any_change_of_the_posterior_mean_costs_its_square`

# %%
times = np.array([900, 500, 350, 250, 180, 100, 20])
eps = jax.random.normal(jax.random.key(8), (8, 8, 1))
level = schedule.level(times)
x_t = dj.q_sample(np.repeat(digits[5:6], len(times), 0), jnp.broadcast_to(eps, (len(times), 8, 8, 1)), level)
plots.strips(
    [x_t, remembered.denoiser(x_t, level).x_0], columns=[f"t = {t}" for t in times], rows=["x_t", "E[x_0 | x_t]"]
)

# %% [markdown]
# This picture shows the argument from the calculus of variations: if the best prediction is changed by $a$ in *any* direction $\eta(x_t)$,
# the error grows by exactly $a^2 \lVert\eta\rVert^2$. It decreases in no direction.

# %%
level, x_0 = schedule.level(200), mixture.sample(jax.random.key(9), 20_000 if smoke else 200_000)
eps = jax.random.normal(jax.random.key(10), x_0.shape)
x_t = dj.q_sample(x_0, eps, level)
best, push = mixture.denoiser(x_t, level).eps, np.linspace(-0.5, 0.5, 21)
figure, [axes] = plots.panels(1, width=5)
for name, eta in {"eta = sin(3 x)": jnp.sin(3 * x_t), "eta = 1": jnp.ones_like(x_t), "eta = best": best}.items():
    errors = np.array([jnp.mean((eps - best - a * eta) ** 2) for a in push])
    [line] = axes.plot(push, errors, "o", markersize=3, label=name)
    axes.plot(push, jnp.mean((eps - best) ** 2) + push**2 * jnp.mean(eta**2), color=line.get_color(), linewidth=0.8)
axes.set(xlabel="a", ylabel="mean squared error", title="lines: least error + a^2 norm(eta)^2")
axes.legend()
figure
