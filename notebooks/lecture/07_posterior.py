# %% [markdown]
# ## 7. One reverse step, if $x_0$ were known
#
# By Bayes' rule the posterior of two Gaussians is a Gaussian, for any two times $s < t$:
#
# $$q(x_s \mid x_t, x_0) = \frac{q(x_t \mid x_s)\,q(x_s \mid x_0)}{q(x_t \mid x_0)} = \mathcal N(\tilde\mu, \tilde\beta I), \qquad
# \tilde\beta = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\,\beta .$$
#
# Below, the product on the right is computed numerically on a grid; the dashed line is `q_posterior`.
#
# [`diffusion/gaussian.py`](../ddpm_jax/diffusion/gaussian.py): `q_posterior`; `test_gaussian.py::test_q_posterior_is_bayes_rule_for_any_two_times`

# %%
normal = jax.scipy.stats.norm.pdf
x_0, x_t, line = 0.8, -0.5, np.linspace(-2, 2, 1001)
figure, axes = plots.panels(2, width=4.2)
for panel, (t, s) in zip(axes, [(300, 250), (300, 100)]):
    move = jax.tree.map(lambda leaf: leaf[0], schedule.transitions([t, s]))
    prior = normal(line, move.next.signal * x_0, move.next.sigma)
    evidence = normal(x_t, np.sqrt(1 - move.beta) * line, np.sqrt(move.beta))
    bayes = prior * evidence / np.trapezoid(prior * evidence, line)
    mean, log_var = dj.q_posterior(jnp.array([x_0]), jnp.array([x_t]), move)
    panel.plot(line, prior, label="q(x_s | x_0)", color=plots.COLOURS[5])
    panel.plot(line, evidence, label="q(x_t | x_s), of x_s", color=plots.COLOURS[4])
    panel.plot(line, bayes, label="their product", linewidth=3, color=plots.COLOURS[0])
    panel.plot(line, normal(line, mean, jnp.exp(log_var / 2)), "--", label="q_posterior", color=plots.COLOURS[1])
    panel.set(title=f"t = {t}, s = {s}", xlabel="x_s", ylabel="density")
axes[1].legend(loc="upper left")
figure
