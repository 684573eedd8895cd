# %% [markdown]
# ## 12. Algorithms 1 and 2
#
# Training is supervised regression: draw an image, a time and a noise, and predict the noise. Sampling takes the mean of step 8 and adds
# $\sigma_t z$, except in the last step. This is the smallest model that can be trained in this way: for one-dimensional Gaussian data
# $\mathcal N(m, c)$ the best $\epsilon_\theta$ is a straight line in $x_t$, so the "network" is a table with a slope and an offset for
# each $t$.
#
# [`training/step.py`](../ddpm_jax/training/step.py), [`diffusion/samplers/driver.py`](../ddpm_jax/diffusion/samplers/driver.py), `train.py`, `sample.py`;
# `test_samplers.py::test_ancestral_is_the_papers_algorithm_2`

# %%
import optax

data = dj.analytic.Gaussian([0.5], [[0.04]])
moves, loss = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), schedule.transitions()), dj.losses.l_simple()


def network(table, x_t, index, label):
    slope, offset = table[:, index.astype(int)]
    return slope[:, None] * x_t + offset[:, None]


def algorithm_1(carry, key):
    table, memory = carry
    images, times, noise = (dj.stream(key, name) for name in ("images", "times", "noise"))
    x_0, which = (
        data.sample(images, 512),
        jax.random.randint(times, (512,), 0, 1000),
    )  # each image gets a time of its own

    def error(table):
        denoise = dj.as_denoiser(network, table, dj.Target.EPS)
        return loss(denoise, x_0, jax.random.split(noise, 512), jax.tree.map(lambda leaf: leaf[which], moves))[
            "loss"
        ].sum()

    updates, memory = optimizer.update(jax.grad(error)(table), memory)
    return (optax.apply_updates(table, updates), memory), None


optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 8000))
table = jnp.zeros((2, 1000))
steps = jax.random.split(key, 2000 if smoke else 8000)
(table, _), _ = jax.jit(lambda carry: jax.lax.scan(algorithm_1, carry, steps))((table, optimizer.init(table)))
denoise = dj.as_denoiser(network, table, dj.Target.EPS)
drawn = chain(dj.samplers.ancestral(dj.Variance.SMALL), denoise, x_T=jax.random.normal(jax.random.key(13), (4000, 1)))

figure, (learned, histogram) = plots.panels(2, width=4.4)
level = schedule.level(np.arange(1, 1001))
learned.plot(table[0], ".", markersize=2, color=plots.COLOURS[5], label="learned slope")
learned.plot(level.sigma / (level.signal**2 * 0.04 + level.sigma**2), color=plots.COLOURS[0], label="exact")
learned.plot(table[1], ".", markersize=2, color=plots.COLOURS[4], label="learned offset")
learned.plot(
    -level.sigma * level.signal * 0.5 / (level.signal**2 * 0.04 + level.sigma**2), color=plots.COLOURS[1], label="exact"
)
learned.set(xlabel="t", title="algorithm 1: what was learned")
learned.legend(ncols=2)
line = np.linspace(-0.4, 1.4, 200)
histogram.hist(drawn.ravel(), bins=50, density=True, color=plots.COLOURS[5], label="drawn")
histogram.plot(line, normal(line, 0.5, 0.2), color=plots.COLOURS[0], label="the data's density")
histogram.set(xlabel="x_0", title="algorithm 2: what it draws")
histogram.legend()
figure

# %% [markdown]
# This is algorithm 2 for images, with the ideal network of the digits: noise is at the left, digits are at the right, and below each row is
# the network's estimate of $x_0$. (The ideal network of a finite set can only reproduce its images: real networks generalise because they
# are *not* ideal.)

# %%
x = jax.random.normal(jax.random.key(11), (4, 8, 8, 1))
grid = dj.timesteps.trailing(schedule, 100)
xs = chain(dj.samplers.ancestral(dj.Variance.SMALL), remembered.denoiser, grid, x_T=x, trajectory=True)
shown = [0, 40, 60, 70, 80, 85, 90, 99]
guesses = jnp.stack([remembered.denoiser(xs[i], schedule.level(grid[i])).x_0 for i in shown])
both = jnp.stack([xs[jnp.array(shown)], guesses])[:, :, :2]  # [2, F, 2, ...]
plots.strips(
    both.transpose(2, 0, 1, 3, 4, 5).reshape(4, len(shown), 8, 8, 1),
    columns=[f"t = {grid[i]:.0f}" for i in shown],
    rows=["x_t", "E[x_0 | x_t]"] * 2,
)
