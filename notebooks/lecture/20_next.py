# %% [markdown]
# ## Where next
#
# Every step of the lecture had an exact answer, because the ideal network of these data has a closed form. What is left is to replace it by
# one that is trained:
#
# - [`02_train_and_sample.ipynb`](02_train_and_sample.ipynb) trains a U-Net on the digits and compares the samplers (steps 11 to 14).
# - [`03_guidance.ipynb`](03_guidance.ipynb) draws a chosen class and measures what guidance costs, and shows the uncertainty of a
#   classifier whose weights have a posterior (steps 16 to 19).
# - [`04_your_own_images.ipynb`](04_your_own_images.ipynb) trains on a folder of images,
#   [`05_published_weights.ipynb`](05_published_weights.ipynb) begins with published weights.
#
# The derivations of all steps, line by line, are in [`docs/notes.md`](../docs/notes.md).
