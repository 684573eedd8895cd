# %% [markdown]
# ## 16. Classifier guidance
#
# The gradient of Bayes' rule is $\nabla\log p(x_t \mid y) = \nabla\log p(x_t) + \nabla\log p(y \mid x_t)$. So a classifier of
# *noisy* images turns any unconditional model into a conditional one; the predicted noise becomes
#
# $$\epsilon - \sqrt{1-\bar\alpha_t}\; w\, \nabla \log p(y \mid x_t) .$$
#
# One classifier that is conditioned on $t$ replaces $T$ of them. With $w = 1$ the samples have the distribution of the class; a larger $w$
# moves them away from every region where other classes are likely.
#
# [`diffusion/guidance.py`](../ddpm_jax/diffusion/guidance.py): `classifier_guided`; `test_guidance.py::test_a_right_classifier_makes_the_class_denoiser`

# %%
wanted = jnp.full(500, 2)
log_prob = dj.guidance.label_log_prob(mixture.log_prob_label, wanted)
grid = dj.timesteps.trailing(schedule, 250)
figure, axes = plots.panels(4, width=2.7, height=2.9)
for panel, scale in zip(axes, [0, 0.3, 1, 8]):
    asked = dj.guidance.classifier_guided(mixture.denoiser, log_prob, scale)
    x = chain(dj.samplers.ancestral(dj.Variance.SMALL), asked, grid, x_T=x_T)
    plots.density(panel, mixture.log_prob, extent=2)
    panel.plot(*x.T, ".", markersize=2, color=plots.COLOURS[1])
    share = float(jnp.mean(jnp.argmax(mixture.log_prob_label(x), axis=1) == 2))
    panel.set(title=f"w = {scale}: {share:.0%} asked for")
figure
