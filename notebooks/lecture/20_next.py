# %% [markdown]
# ## Where next
#
# [`02_train_and_sample.ipynb`](02_train_and_sample.ipynb) replaces the exact denoiser by a U-Net.
