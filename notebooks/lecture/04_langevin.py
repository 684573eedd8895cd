# %% [markdown]
# ## 4. A noising step is a Langevin step on a standard normal
#
# Langevin dynamics $x + \tfrac{\delta}{2}\nabla\log p(x) + \sqrt\delta\,\epsilon$ samples $p$. For $p = \mathcal N(0, I)$ the score is $-x$,
# and $\sqrt{1-\beta} = 1 - \beta/2 + O(\beta^2)$: noising *is* Langevin dynamics towards pure noise. With the score of any other density, the
# same step leads to samples of that density.
#
# [`diffusion/samplers/langevin.py`](../ddpm_jax/diffusion/samplers/langevin.py); `test_langevin.py::test_a_noising_step_is_a_langevin_step_on_the_standard_normal`

# %%
figure, (error, *walk) = plots.panels(4, width=2.7, height=2.8)
betas, gap = np.array([0.02, 0.05, 0.1, 0.2, 0.5]), []
for beta in betas:
    move = jax.tree.map(lambda leaf: leaf[0], dj.schedules.from_betas([beta]).transitions())
    noised = dj.q_step(points, dj.noise_like(keys(500), points), move)
    gap.append(float(jnp.max(jnp.abs(noised - dj.samplers.langevin_step(points, -points, keys(500), delta=beta)))))
error.loglog(betas, gap, "o-", label="largest difference")
error.loglog(betas, gap[0] * (betas / betas[0]) ** 2, "--", label="slope 2")
error.minorticks_off()
error.set_xticks(betas, betas)
error.set(xlabel="beta", title="noising minus Langevin")
error.legend()

level = schedule.level(100)


def langevin(i, x):
    slope = dj.prediction.score(mixture.denoiser(x, level), level)
    return dj.samplers.langevin_step(x, slope, dj.image_keys(jax.random.fold_in(key, i), np.arange(len(x))), delta=0.02)


for panel, steps in zip(walk, [0, 30, 1000]):
    x = jax.lax.fori_loop(0, steps, langevin, 0.2 * x_T - 2)
    plots.density(panel, lambda x: mixture.log_prob(x, level), extent=2.7)
    panel.plot(*x.T, ".", markersize=2, color=plots.COLOURS[1])
    panel.set(title=f"{steps} Langevin steps")
figure
