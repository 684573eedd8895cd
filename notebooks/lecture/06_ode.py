# %% [markdown]
# ## 6. Denoising as DDIM follows an ODE
#
# By the Fokker-Planck equation, a flow without any noise has the same densities. In the variables $\bar x = x/\sqrt{\bar\alpha}$ and
# $s = \sqrt{1-\bar\alpha}/\sqrt{\bar\alpha}$ it is one line, and DDIM is its Euler step:
#
# $$\frac{d\bar x}{ds} = \epsilon_\theta(x, t).$$
#
# The picture shows one dimension over time, with four chains from each of three starting points. DDPM leads
# from one starting point to many end points, DDIM always to the same one; both follow the blue density of noisy data at all times.
#
# [`diffusion/samplers/ddim.py`](../ddpm_jax/diffusion/samplers/ddim.py), [`diffusion/samplers/ode.py`](../ddpm_jax/diffusion/samplers/ode.py);
# `test_ddim.py::test_ddim_eta_zero_is_eulers_method_on_the_ode`, `test_ode_solvers.py::test_solvers_converge_with_their_order`

# %%
line = dj.analytic.GaussianMixture([0.5, 0.2, 0.3], [[-1.2], [0.0], [0.9]], [[[0.02]], [[0.01]], [[0.04]]])
starts = jnp.repeat(jnp.array([[-1.4], [0.3], [1.6]]), 4, axis=0)
figure, axes = plots.panels(2, width=4.6)
for panel, (name, sampler) in zip(
    axes, {"DDPM": dj.samplers.ancestral(dj.Variance.SMALL), "DDIM": dj.samplers.ddim()}.items()
):
    xs = chain(sampler, line.denoiser, x_T=starts, trajectory=True)
    plots.history(panel, line.log_prob, schedule, extent=3)
    plots.paths(panel, np.arange(1000, -1, -1), xs[..., 0])
    panel.set(title=f"{name}: 3 starts, {len(np.unique(np.round(xs[-1], 3)))} ends")
figure

# %% [markdown]
# A solver of a differential equation has an order: if the step is halved, the error of Euler's method halves, and that of the
# second-order solvers falls to a quarter. Because the flow transports the density, it also gives the likelihood *exactly*.

# %%
figure, (order, likelihood) = plots.panels(2, width=4)
exact = chain(dj.samplers.heun(), mixture.denoiser, dj.timesteps.log_snr(schedule, 80 if smoke else 800), x_T=x_T[:64])
for name, sampler in {
    "DDIM (Euler)": dj.samplers.ddim(),
    "Heun": dj.samplers.heun(),
    "DPM-Solver++(2M)": dj.samplers.dpm_solver_pp_2m(),
}.items():
    steps = np.array([10, 20] if smoke else [10, 20, 40, 80, 160])
    errors = [
        jnp.sqrt(
            jnp.mean((chain(sampler, mixture.denoiser, dj.timesteps.log_snr(schedule, n), x_T=x_T[:64]) - exact) ** 2)
        )
        for n in steps
    ]
    order.loglog(steps * (2 if name == "Heun" else 1), errors, "o-", label=name)
order.set(xlabel="network evaluations", title="error against the exact flow")
order.legend()

upwards = schedule.encoding(dj.timesteps.log_snr(schedule, 200)[:-1])
by_flow = jax.jit(lambda x: dj.likelihood.ode_log_prob_nats(mixture.denoiser, x, transitions=upwards))(points[:100])
level = schedule.level(1)
truth = mixture.log_prob(level.signal * points[:100], level) + 2 * np.log(level.signal)
likelihood.plot(truth, by_flow, ".", label=f"largest difference {float(jnp.max(jnp.abs(by_flow - truth))):.0e} nats")
likelihood.axline((0, 0), slope=1, color="grey", linewidth=0.8)
likelihood.set(xlabel="exact log density", ylabel="by the flow", title="likelihood")
likelihood.legend()
figure
