# %% [markdown]
# ## 19. Data fit against the KL
#
# $$\mathrm{ELBO} = \mathbb E_q[\log P(D \mid w)] - \mathrm{KL}(q(w), P(w)) .$$
#
# The KL is the cost of the weights. For a Gaussian prior its part for the mean is $\lVert w\rVert^2 / 2\sigma^2$, weight decay; the rest is
# the cost of the precision of the weights. More features always fit better and always cost more: this is Occam's razor. Without a test set,
# the ELBO finds the cubic that generated the data.
#
# [`diffusion/bayes.py`](../ddpm_jax/diffusion/bayes.py): `kl_nats`; `test_bayes.py::test_kl_is_weight_decay_and_the_cost_of_precision`

# %%
def exact_posterior(k):
    precision = len(x) / noise**2 + 1 / prior_std**2
    mean = jnp.asarray(features[:, :k].T @ y / noise**2 / precision, jnp.float32)
    return bayes.MeanField(mean, jnp.full(k, -0.5 * np.log(precision)))


sizes = np.arange(1, 13)
terms = [elbo(exact_posterior(int(k)), int(k)) for k in sizes]
figure, (razor, costs) = plots.panels(2, width=4.4)
razor.plot(sizes, [t.total for t in terms], "o-", label="ELBO")
razor.plot(sizes, [t.data_fit for t in terms], "s--", label="data fit")
razor.plot(sizes, [log_evidence(k) for k in sizes], "k.", label="log evidence")
razor.set(
    xlabel="number of features", ylabel="nats", title=f"the ELBO chooses {sizes[np.argmax([t.total for t in terms])]}"
)
razor.legend()
costs.bar(sizes, [t.kl.variance for t in terms], label="precision of the weights", color=plots.COLOURS[5])
costs.bar(
    sizes,
    [t.kl.mean for t in terms],
    bottom=[t.kl.variance for t in terms],
    label="size of the weights (decay)",
    color=plots.COLOURS[1],
)
costs.set(xlabel="number of features", ylabel="KL, nats", title="what the weights cost")
costs.legend(loc="upper left")
figure
