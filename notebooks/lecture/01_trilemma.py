# %% [markdown]
# ## 1. Quality, diversity, speed: pick two
#
# A generator can collapse onto one mode (it is fast and its samples are sharp, but it misses most of the data: the weakness of GANs) or
# cover all data with one blur (it is fast and complete, but not sharp: the weakness of VAEs). Diffusion gives quality and diversity, but
# needs many evaluations of its network. The table below measures this. *Precision* is the share of samples that lie among the data, *recall*
# the share of the data that lie among the samples.
#
# [`metrics/precision_recall.py`](../ddpm_jax/metrics/precision_recall.py); `test_precision_recall.py`

# %%
import time

num = 200 if smoke else 1000
real, start = mixture.sample(jax.random.key(3), num), jax.random.normal(jax.random.key(4), (num, 2))
one_mode, one_blur = mixture.components[1], dj.analytic.Gaussian(mixture.mean, mixture.covariance)
generators = {
    "one mode": (lambda: one_mode.sample(key, num), 1),
    "one Gaussian": (lambda: one_blur.sample(key, num), 1),
}
for name, sampler, grid, steps in [
    ("DDPM", dj.samplers.ancestral(dj.Variance.SMALL), dj.timesteps.trailing, 1000),
    ("DDPM", dj.samplers.ancestral(dj.Variance.SMALL), dj.timesteps.trailing, 20),
    ("DDIM", dj.samplers.ddim(), dj.timesteps.trailing, 20),
    ("DDIM", dj.samplers.ddim(), dj.timesteps.trailing, 5),
    ("DPM-Solver++(2M)", dj.samplers.dpm_solver_pp_2m(), dj.timesteps.trailing, 10),
    ("Heun", dj.samplers.heun(), dj.timesteps.karras, 10),
]:
    moves = schedule.transitions(grid(schedule, steps))
    draw = jax.jit(
        lambda sampler=sampler, moves=moves: dj.sample(
            sampler, mixture.denoiser, keys(num), x_T=start, transitions=moves
        )
    )
    generators[f"{name}, {steps} steps"] = (draw, 2 * steps - 1 if name == "Heun" else steps)

table = {}
print(f"{'':26}precision  recall  evaluations  samples/s")
for name, (draw, evaluations) in generators.items():
    draw()
    begin = time.perf_counter()
    samples = jax.block_until_ready(draw())
    speed = num / (time.perf_counter() - begin)
    table[name] = (*dj.precision_recall(real, samples), evaluations)
    print(f"{name:26}{table[name][0]:9.2f}{table[name][1]:8.2f}{evaluations:13}{speed:11,.0f}")

figure, [axes] = plots.panels(1, width=6.5, height=3.2)
for i, (name, (precision, recall, evaluations)) in enumerate(table.items()):
    axes.plot(
        recall,
        precision,
        "os^vDP*X"[i],
        markersize=9,
        color=plots.COLOURS[i % 7],
        label=f"{name} ({evaluations})",
        markerfacecolor="none" if i > 6 else None,
    )
axes.set(
    xlabel="recall (diversity)",
    ylabel="precision (quality)",
    xlim=(0, 1.05),
    ylim=(0, 1.05),
    title="in brackets: network evaluations",
)
axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
figure
