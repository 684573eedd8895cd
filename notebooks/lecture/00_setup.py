# %% [markdown]
# # The notes, step by step
#
# These nineteen steps lead from "add noise to an image" to class-conditional diffusion models and to classifiers that estimate their own
# uncertainty. Each step has its equation, the call to `ddpm_jax` that implements it, and a picture. Almost nothing here is trained: the data
# are a mixture of three Gaussians in the plane, or 1,297 handwritten digits, and for both the *perfect* network is known in closed form
# ([`diffusion/analytic.py`](../ddpm_jax/diffusion/analytic.py)). So every picture shows the behaviour of diffusion, not the errors of a
# particular network.
#
# Times are $t = 1 \ldots T$ and $\bar\alpha_0 = 1$. Every step names the file that implements it and the test that proves it;
# [`docs/notes.md`](../docs/notes.md) is the same list without the pictures.

# %%
schedule = dj.schedules.linear(1000)
mixture = dj.analytic.GaussianMixture(
    weights=[0.3, 0.4, 0.3],
    means=[[-0.9, 0.5], [0.9, 0.6], [0.0, -0.9]],
    covariances=[
        [[0.06, 0.03], [0.03, 0.04]],
        [[0.02, 0.00], [0.00, 0.10]],
        [[0.15, -0.02], [-0.02, 0.02]],
    ],
)

# %%
digits, labels = dj.load(dj.Digits("train"))
remembered = dj.analytic.FiniteData(digits)  # a network of unlimited capacity
key, plots = jax.random.key(0), dj.plots

points = mixture.sample(jax.random.key(1), 500)
x_T = jax.random.normal(jax.random.key(2), (500, 2))


# %%
def keys(n, seed=0):
    return dj.image_keys(jax.random.key(seed), np.arange(n))


def chain(sampler, denoise, timesteps=None, *, x_T, seed=0, trajectory=False):
    transitions = schedule.transitions(timesteps)
    options = {"transitions": transitions, "trajectory": trajectory}
    run = jax.jit(lambda k, x: dj.sample(sampler, denoise, k, x_T=x, **options))
    return run(keys(len(x_T), seed), x_T)
