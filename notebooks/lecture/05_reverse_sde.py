# %% [markdown]
# ## 5. Denoising as DDPM is Anderson's reverse SDE
#
# Noising is $dx = f\,dt + g\,dw$; by Anderson's theorem, its time reversal is
#
# $$dx = \left[f - g^2\,\nabla\log q(x_t)\right]dt + g\,dw .$$
#
# The ancestral sampler of DDPM discretises this equation. It adds noise in every step, so the samples are diverse, and at
# *every* time $t$ they have the same distribution as the noisy data.
#
# [`diffusion/samplers/ancestral.py`](../ddpm_jax/diffusion/samplers/ancestral.py), [`diffusion/samplers/sde.py`](../ddpm_jax/diffusion/samplers/sde.py);
# `test_sde.py::test_the_limit_of_the_ancestral_step_is_euler_maruyamas`

# %%
shown = [1000, 400, 200, 80, 0]
clouds = {
    name: chain(sampler, mixture.denoiser, x_T=x_T, trajectory=True)
    for name, sampler in {
        "DDPM": dj.samplers.ancestral(dj.Variance.SMALL),
        "reverse SDE": dj.samplers.euler_maruyama(),
    }.items()
}
figure, axes = plots.panels(len(shown), 2, width=2.1, height=2.2)
for panel, (name, t) in zip(axes, [(name, t) for name in clouds for t in shown]):
    plots.density(panel, lambda x, t=t: mixture.log_prob(x, schedule.level(t)), extent=2.5)
    panel.plot(*clouds[name][1000 - t].T, ".", markersize=1.5, color=plots.COLOURS[1])
    panel.set(title=f"{name}, t = {t}")
figure
