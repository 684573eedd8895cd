# %% [markdown]
# ## 14. Fourier: the outline first, the detail last
#
# An image is a sum of waves; it is smooth if their power $a^2 + b^2$ falls quickly with the frequency. Noise has the same power at all
# frequencies, so it hides the weak high frequencies first. In the reverse process the order is reversed: the outline settles while the
# detail is still noise. The U-Net also gets the time as a vector of sines and cosines.
#
# [`diffusion/spectrum.py`](../ddpm_jax/diffusion/spectrum.py), [`models/layers.py`](../ddpm_jax/models/layers.py): `timestep_embedding`;
# `test_spectrum.py::test_low_frequencies_settle_first_and_where_their_snr_is_one`

# %%
x = jax.random.normal(jax.random.key(12), (8 if smoke else 128, 8, 8, 1))
xs = chain(dj.samplers.ancestral(dj.Variance.SMALL), remembered.denoiser, grid, x_T=x, trajectory=True)
estimate = jax.jit(lambda x_t, level: dj.spectrum.band_power(remembered.denoiser(x_t, level).x_0).mean(axis=0))
power = np.stack(
    [estimate(x_t, schedule.level(t)) for x_t, t in zip(xs[:-1], grid[:-1])]
    + [dj.spectrum.band_power(xs[-1]).mean(axis=0)]
)
clean = np.asarray(dj.spectrum.band_power(digits).mean(axis=0))
print("settles at t =", *dj.spectrum.settling_time(grid, power).astype(int), "for 0 to 4 periods across the image")
figure, (forward, settling, embedding) = plots.panels(3)
for k, t in enumerate([0, 100, 200, 400, 1000]):
    forward.semilogy(dj.spectrum.forward_power(clean, schedule.level(t)), "o-", markersize=3, label=f"t = {t}")
forward.set(xlabel="periods across the image", title="power of x_t on the way up", xticks=range(5))
forward.legend(fontsize=7)
for k in range(5):
    settling.plot(grid, power[:, k] / power[-1, k], label=f"{k} periods")
settling.axhline(0.5, color="grey", linewidth=0.8)
settling.invert_xaxis()
settling.set(xlabel="t", title="power of E[x_0 | x_t] on the way down", ylim=(0, 1.3))
settling.legend(fontsize=7)
embedding.imshow(
    dj.timestep_embedding(jnp.arange(0.0, 1000, 5), 64).T, aspect="auto", cmap="PuOr", extent=(0, 1000, 64, 0)
)
embedding.set(xlabel="t", ylabel="channel", title="how the U-Net sees t")
embedding.grid(visible=False)
figure
