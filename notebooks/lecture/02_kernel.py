# %% [markdown]
# ## 2. Noising steps compose
#
# One step scales the image down a little and adds a little noise. Gaussians compose, so any number of steps equals one larger step:
#
# $$x_t = \sqrt{1-\beta_t}\,x_{t-1} + \sqrt{\beta_t}\,\epsilon \quad\Longrightarrow\quad x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon .$$
#
# [`diffusion/gaussian.py`](../ddpm_jax/diffusion/gaussian.py): `q_step`, `q_sample`; `test_gaussian.py::test_steps_compose_to_the_closed_form`

# %%
times = np.array([0, 50, 100, 200, 300, 500, 1000])
eps = jax.random.normal(key, (len(times), 8, 8, 1))
plots.strips(
    [dj.q_sample(np.repeat(digits[i : i + 1], len(times), 0), eps, schedule.level(times)) for i in (0, 12, 5)],
    columns=[f"t = {t}" for t in times],
)


# %%
def step_by_step(x, t):
    up = jax.tree.map(lambda leaf: leaf[::-1], schedule.transitions(np.arange(t, -1, -1)))
    moves = (jax.random.split(jax.random.key(5), t), up)
    return jax.lax.scan(lambda x, move: (dj.q_step(x, jax.random.normal(move[0], x.shape), move[1]), None), x, moves)[0]


figure, axes = plots.panels(4, width=2.5, height=2.9)
for panel, t in zip(axes, [0, 100, 300, 1000]):
    plots.density(panel, lambda x, t=t: mixture.log_prob(x, schedule.level(t)), extent=2.5)
    x_t = step_by_step(points, t) if t else points
    panel.plot(*x_t.T, ".", markersize=2, color=plots.COLOURS[1])
    panel.set(title=f"t = {t}")
figure.suptitle("dots: t single steps; blue: the density of the closed form", fontsize=10)
figure
