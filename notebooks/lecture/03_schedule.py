# %% [markdown]
# ## 3. The betas are chosen, and they grow
#
# $\beta_1 < \dots < \beta_T$ are hyperparameters: the steps are small while the image still has detail, and larger when little is left.
# A noisy image depends on them only through the product, and what counts is the logarithm of the ratio of signal to noise:
#
# $$\bar\alpha_t = \prod_{i=1}^t (1-\beta_i), \qquad \lambda_t = \log \frac{\bar\alpha_t}{1-\bar\alpha_t} .$$
#
# [`diffusion/schedules.py`](../ddpm_jax/diffusion/schedules.py); `test_lecture_03.py`, `test_schedules.py::test_betas_grow`,
# `test_linear_ends_in_the_papers_noise`

# %%
# figure: 03_schedules
figure, (beta, signal, log_snr) = plots.panels(3, width=3.4)
for name in ("linear", "quadratic", "sigmoid", "cosine"):
    other = getattr(dj.schedules, name)(1000)
    beta.semilogy(np.arange(1, 1001), other.beta, label=name)
    signal.plot(np.sqrt(other.alpha_bar))
    log_snr.plot(np.arange(1, 1001), other.log_snr)
beta.set(xlabel="t", title="beta_t: noise that step t adds")
signal.set(xlabel="t", title="sqrt(alpha_bar_t): signal left")
log_snr.set(xlabel="t", ylim=(-21, 12), title="lambda_t: log signal-to-noise ratio")
beta.legend(loc="lower right")
figure

# %% [markdown]
# **What you should see.** All betas grow (left, logarithmic). The signal falls from 1 to nearly 0 (middle): with the linear schedule it
# is lost first, with the cosine schedule it falls most evenly. The log signal-to-noise ratio (right) falls fast at first, then almost
# along a line, from about 10 to -7 (quadratic), -10 (linear and sigmoid) or far below in the last steps (cosine).
#
# What this means for an image: the same digit and the same noise, by two schedules.

# %%
# figure: 03_digits
times = np.array([0, 100, 250, 400, 550, 700, 850, 1000])
both = {"linear": schedule, "cosine": dj.schedules.cosine(1000)}
image = np.repeat(digits[[0]], len(times), 0)
eps = np.repeat(jax.random.normal(jax.random.key(7), (1, 8, 8, 1)), len(times), 0)
plots.strips(
    [dj.q_sample(image, eps, other.level(times)) for other in both.values()],
    columns=[f"t = {t:,}" for t in times],
    rows=[f"class {labels[0]}, {name}" for name in both],
)

# %% [markdown]
# **What you should see.** With the linear schedule this digit is faint at t = 250 and lost at t = 400, so that more than half of
# the steps work on images in which the eye sees nothing but noise. With the cosine schedule it is faint at t = 400 and lost at t = 550.
#
# Why do the betas grow? A step counts in comparison with all noise in the image after it:
#
# $$\lambda_{t-1} - \lambda_t = -\log \left(1 - \frac{\beta_t}{1-\bar\alpha_t}\right) .$$
#
# If all betas are equal, the first 10 of 1,000 steps take 16 % of the range; if all steps lower $\lambda$ by the same amount, the
# betas grow.

# %%
equal = dj.schedules.from_betas(np.full(1000, 0.01))
even_log_snr = np.linspace(schedule.log_snr[0], schedule.log_snr[-1], 1000)
even = dj.schedules.NoiseSchedule(np.append(1, 1 / (1 + np.exp(-even_log_snr))))
figure, (beta, log_snr) = plots.panels(2, width=4.6)
for name, other in {"linear": schedule, "equal betas": equal, "equal steps": even}.items():
    beta.semilogy(np.arange(2, 1001), other.beta[1:])
    log_snr.semilogy(np.arange(2, 1001), -np.diff(other.log_snr), label=name)
beta.set(xlabel="t", title="beta_t")
log_snr.set(xlabel="t", title="lambda_(t-1) - lambda_t: what step t does")
log_snr.legend(loc="upper right")
figure

# %% [markdown]
# **What you should see.** With equal betas step 2 lowers $\lambda$ by $\log 2 = 0.69$, and step 500 by 0.01. With equal steps the
# betas grow by a factor of 10,000 and level off where the image is almost pure noise. The linear schedule also spends much of the
# range on its first steps, but from t = 100 on its steps are even up to a factor of 2, because its betas grow.
#
# ### Exercises
#
# **1.** Estimate $\bar\alpha_T$ of the linear schedule from the sum of its betas. How far is the estimate from the true value?
#
# <details><summary>Answer</summary>
#
# $\log(1-\beta) \approx -\beta$, and the sum is $1000 \cdot (0.0001 + 0.02) / 2 = 10.05$. The estimate is 7 % too large: the terms
# $\beta^2 / 2$ add 0.067.
#
# ```python
# estimate = np.exp(-1000 * (1e-4 + 0.02) / 2)
# assert np.isclose(estimate / schedule.alpha_bar[-1], np.exp(0.067), rtol=1e-3)
# ```
#
# </details>
#
# **2.** At which time of the cosine schedule are images as noisy as at t = 500 of the linear one?
#
# <details><summary>Answer</summary>
#
# At the time with the same log signal-to-noise ratio, since that determines both scales.
#
# ```python
# cosine = dj.schedules.cosine(1000)
# t = cosine.time(schedule.level(500.0).log_snr)
# assert np.isclose(cosine.level(t).signal, schedule.level(500).signal, atol=1e-5)
# assert 810 < t < 830
# ```
#
# </details>
#
# **3.** How much does a pixel of value 1 differ at t = T from pure noise, as a divergence in nats?
#
# <details><summary>Answer</summary>
#
# $\operatorname{KL} = \frac12 (\bar\alpha_T (x_0^2 - 1) - \log(1 - \bar\alpha_T))$, which is about $\bar\alpha_T / 2$ for
# $x_0 = 1$: 0.00002 nats.
#
# ```python
# last = schedule.alpha_bar[-1]
# kl = (last * (1.0**2 - 1) - np.log1p(-last)) / 2
# assert np.isclose(kl, 2.02e-5, rtol=1e-2)
# ```
#
# </details>
