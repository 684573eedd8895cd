# %% [markdown]
# ## 12. Algorithms 1 and 2
#
# Training is supervised learning. The question is a noisy image and its time, the right answer is the noise in it:
#
# | algorithm 1, training | in the code |
# |---|---|
# | 1: repeat | `jax.lax.scan(algorithm_1, ...)` |
# | 2: draw $x_0$ from the data | `data.sample(images, 512)` |
# | 3: draw $t$ uniformly from $1 \ldots T$ | `jax.random.randint(times, (512,), 0, 1000)` |
# | 4: draw $\epsilon \sim \mathcal N(0, I)$ | `noise_like`, in the loss |
# | 5: step along $\nabla_\theta \lVert\epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon,\ t)\rVert^2$ | `jax.grad(error)`, `optimizer.update` |
# | 6: until converged | the number of steps |
#
# Sampling asks the network $T$ times:
#
# | algorithm 2, sampling | in the code |
# |---|---|
# | 1: draw $x_T \sim \mathcal N(0, I)$ | `x_T=jax.random.normal(...)` |
# | 2: for $t = T, \ldots, 1$ | the scan in `sample` |
# | 3: draw $z \sim \mathcal N(0, I)$ if $t > 1$, else $z = 0$ | `noise_like`, `jnp.where(next.t > 0, ...)` |
# | 4: $x_{t-1} = \frac{1}{\sqrt{\alpha_t}}\left(x_t - \frac{1-\alpha_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta(x_t, t)\right) + \sigma_t z$ | `p_sample`: `p_mean_log_var`, and the noise |
# | 5: end for | |
# | 6: return $x_0$ | the end of the scan |
#
# The network here is the exact one of the digits. Its answer at $t = 200$ is the noise that it sees in the image.
#
# [`training/step.py`](../ddpm_jax/training/step.py), [`diffusion/samplers/driver.py`](../ddpm_jax/diffusion/samplers/driver.py), `train.py`, `sample.py`;
# `test_samplers.py::test_ancestral_is_the_papers_algorithm_2`

# %%
t, x_0 = 200, jnp.asarray(digits[3:4])
eps, noise = jax.random.normal(jax.random.key(12), (2, 1, 8, 8, 1))
x_t = dj.q_sample(x_0, eps, schedule.level(t))  # the question
ddpm, grid = dj.samplers.ancestral(dj.Variance.SMALL), dj.timesteps.trailing(schedule, 100)
xs = chain(ddpm, remembered.denoiser, grid, x_T=noise, trajectory=True)
both = jnp.concatenate([x_t, xs[80]])  # the second question: that of the chain at t
answers = remembered.denoiser(both, schedule.level(t)).eps / 2

# %%
# figure: 12_question_answer
figure, (learn, draw) = plots.panels(1, 2, width=8.6, height=4.3)
shown = {"x_0": x_0[0], "eps": eps[0] / 2, "label": f"class {labels[3]}"}
plots.training_diagram(learn, **shown, x_t=x_t[0], answer=answers[0], t=t)
shown = {"x_T": noise[0] / 2, "x_0": xs[-1][0]}
plots.generation_diagram(draw, **shown, x_t=xs[80][0], answer=answers[1], t=t)
figure

# %% [markdown]
# **What you should see.** Above, the question is made of an image, a noise and a time, so that the right answer is known without any
# label: this is why training is ordinary regression. The loss compares the network's answer with the noise that was added, and its
# gradient changes the network. Below, nobody has the right answer: the network's answer is believed, one small step is taken with it, and
# the result is the next question.
#
# This is the smallest model that can be trained in this way. For one-dimensional Gaussian data $\mathcal N(m, c)$ the best
# $\epsilon_\theta$ is a straight line in $x_t$, so the "network" is a table with a slope and an offset for each $t$.

# %%
import optax

data = dj.analytic.Gaussian([0.5], [[0.04]])
moves = jax.tree.map(jnp.float32, schedule.transitions())
loss = dj.losses.l_simple()


def network(table, x_t, index, label):
    slope, offset = table[:, index.astype(int)]
    return slope[:, None] * x_t + offset[:, None]


# %%
def error(table, key):  # lines 2 to 5
    images, times, noise = (dj.stream(key, name) for name in ("images", "times", "noise"))
    x_0, which = data.sample(images, 512), jax.random.randint(times, (512,), 0, 1000)
    steps = jax.tree.map(lambda leaf: leaf[which], moves)
    denoise = dj.as_denoiser(network, table, "eps")
    return loss(denoise, x_0, jax.random.split(noise, 512), steps)["loss"].sum()


def algorithm_1(carry, key):
    table, memory = carry
    updates, memory = optimizer.update(jax.grad(error)(table, key), memory)
    return (optax.apply_updates(table, updates), memory), None


# %%
optimizer, table = optax.adam(optax.cosine_decay_schedule(0.05, 8000)), jnp.zeros((2, 1000))
steps = jax.random.split(key, 200 if smoke else 8000)
(table, _), _ = jax.lax.scan(algorithm_1, (table, optimizer.init(table)), steps)
denoise = dj.as_denoiser(network, table, "eps")
start = jax.random.normal(jax.random.key(13), (4000, 1))
drawn = chain(dj.samplers.ancestral(dj.Variance.SMALL), denoise, x_T=start)
print(f"mean {drawn.mean():.3f}, standard deviation {drawn.std():.3f}; the data have 0.5 and 0.2")

# %%
level, line = schedule.level(np.arange(1, 1001)), np.linspace(-0.4, 1.4, 200)
slope = level.sigma / (level.signal**2 * 0.04 + level.sigma**2)
exact = {"exact slope": slope, "exact offset": -slope * level.signal * 0.5}
density = {"density of the data": jnp.exp(data.log_prob(line[:, None]))}

# %%
# figure: 12_learned
figure, (learned, histogram) = plots.panels(2, width=4.3, height=3.2)
for i, name in enumerate(["slope", "offset"]):
    options = {"color": plots.COLOURS[(5, 4)[i]], "label": f"learned {name}"}
    learned.plot(level.t, table[i], ".", markersize=2, **options)
plots.lines(learned, level.t, exact, xlabel="t", title="algorithm 1: two numbers for each t")
histogram.hist(drawn.ravel(), bins=50, density=True, color=plots.COLOURS[5], label="samples")
histogram.set_ylim(0, 2.8)
plots.lines(histogram, line, density, xlabel="x_0", title="algorithm 2: 4,000 samples")
figure

# %% [markdown]
# **What you should see.** The learned slopes and offsets scatter around the exact curves, and the samples have the density of the data.
#
# Algorithm 2 for images, with the exact network of the digits: a column is a time, and below each noisy image is the network's estimate of
# $x_0$ at that time.

# %%
# figure: 12_chain
x = jax.random.normal(jax.random.key(11), (2, 8, 8, 1))
grid = dj.timesteps.trailing(schedule, 100)
sampler = dj.samplers.ancestral(dj.Variance.SMALL)
xs = chain(sampler, remembered.denoiser, grid, x_T=x, trajectory=True)
shown = [0, 40, 60, 70, 80, 85, 90, 99]
guesses = jnp.stack([remembered.denoiser(xs[i], schedule.level(grid[i])).x_0 for i in shown])
both = jnp.stack([xs[jnp.array(shown)], guesses]).transpose(2, 0, 1, 3, 4, 5)
names = [f"{what}, chain {i}" for i in (1, 2) for what in ("x_t", "estimate of x_0")]
times = [f"t = {grid[i]:.0f}" for i in shown]
plots.strips(both.reshape(4, len(shown), 8, 8, 1), columns=times, rows=names)

# %%
log_snr = schedule.level(grid[:-1]).log_snr
even = np.linspace(log_snr[0], log_snr[-1], 8 if smoke else 25)
frames = np.unique(np.searchsorted(log_snr, even).clip(max=len(log_snr) - 1))
guesses = [remembered.denoiser(xs[i], schedule.level(grid[i])).x_0 for i in frames]
gap = jnp.ones((2, 8, 1, 1))
pairs = [jnp.concatenate([xs[i], gap, x_0], axis=2) for i, x_0 in zip(frames, guesses)]
captions = [f"x_t and estimate, t = {grid[i]:.0f}" for i in frames]
plots.animation([pair.reshape(16, 17, 1) for pair in pairs], captions=captions, size=2.6)

# %% [markdown]
# **What you should see.** The noisy image is noise for more than half of the chain, while the estimate is already a blurred digit, an
# average of all that are possible. At the end the two agree. The animation shows both chains, $x_t$ at the left and the estimate at the
# right; its frames are spread evenly over log-SNR, so that it spends its time where something happens. The exact network of a finite set can only return images of that set;
# trained networks generalise because they are *not* exact.
#
# ### Exercises
#
# **1.** The last step of algorithm 2 uses $z = 0$. Show with the exact network that the last step then returns the estimate of $x_0$.
#
# <details><summary>Answer</summary>
#
# At $t = 1$ we have $\beta_1 = 1 - \bar\alpha_1$, so the mean of the step is $(x_1 - \sqrt{1-\bar\alpha_1}\,\epsilon_\theta)/\sqrt{\bar\alpha_1}$.
#
# ```python
# last = jax.tree.map(lambda leaf: leaf[-1], schedule.transitions())
# x_1 = jnp.asarray(digits[:2]) + 0.01 * jax.random.normal(key, (2, 8, 8, 1))
# returned = dj.p_sample(remembered.denoiser, keys(2), x_t=x_1, transition=last, variance=dj.Variance.LARGE)
# assert jnp.allclose(returned, remembered.denoiser(x_1, last.now).x_0, atol=1e-5)
# ```
#
# </details>
#
# **2.** What is the smallest loss that any network can have for the data $\mathcal N(0.5, 0.04)$ at $t = 200$? Compare it with the loss of
# the exact network.
#
# <details><summary>Answer</summary>
#
# It is the variance of $\epsilon$ given $x_t$, which is $\bar\alpha_t c / (\bar\alpha_t c + 1 - \bar\alpha_t)$ with $c = 0.04$.
#
# ```python
# level = jax.tree.map(jnp.float32, schedule.level(200))
# x_0, eps = data.sample(key, 100_000), jax.random.normal(jax.random.key(5), (100_000, 1))
# measured = jnp.mean((data.denoiser(dj.q_sample(x_0, eps, level), level).eps - eps) ** 2)
# smallest = level.signal**2 * 0.04 / (level.signal**2 * 0.04 + level.sigma**2)
# assert abs(measured / smallest - 1) < 0.02
# ```
#
# </details>
#
# **3.** Take away the noise of algorithm 2: $x_{t-1} = \mu(x_t, \epsilon_\theta)$ for every $t$. What is the standard deviation of the samples
# of $\mathcal N(0.5, 0.04)$, and why is this not DDIM?
#
# <details><summary>Answer</summary>
#
# Almost 0: every step shrinks towards the mean by as much as the missing noise would have added. DDIM takes another, shorter step.
#
# ```python
# def mean_only(denoise, keys, state, transition):
#     said = denoise(state.x, transition.now)
#     mean, _ = dj.samplers.p_mean_log_var(said, state.x, transition, dj.Variance.SMALL)
#     return dj.SamplerState(mean), dj.StepInfo(said.x_0)
#
#
# start = jax.random.normal(jax.random.key(13), (1000, 1))
# without = chain(dj.Sampler(dj.SamplerState, mean_only), data.denoiser, x_T=start)
# along_the_ode = chain(dj.samplers.ddim(), data.denoiser, x_T=start)
# assert without.std() < 0.02
# assert abs(along_the_ode.std() - 0.2) < 0.02
# ```
#
# </details>
