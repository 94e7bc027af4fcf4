"""
What the units see
==================

Train a small patch network on scikit-learn's digits, and look at its units.

A unit's weights are folded into one *effective filter*, whatever the kind of unit: the pre-activation is the product of the filter with
a window of the image, plus a bias.
"""

# %%
# Sixteen units look at windows of 5 x 5 pixels, and pool in 2 x 2 cells.

import matplotlib.pyplot as plt
import numpy as np

import varpro_nn

digits = varpro_nn.load("digits")
settings = {"data": digits, "window": 5, "grid": 2, "n_units": 16, "images_per_subnetwork": 1000}
config = varpro_nn.configure("tiny", **settings)
result = varpro_nn.run(config, digits)
print(result.network.summary())
print(f"test accuracy {result.metrics['test_accuracy']:.4f}")

# %%
# The same units as they were drawn, with an output layer of their own, show what training is worth.

drawn = varpro_nn.run(varpro_nn.configure("tiny", **settings, scheme="untrained"), digits)
print(f"test accuracy {drawn.metrics['test_accuracy']:.4f}")


# %%
# Filters before and after training. Red is positive, blue negative, each scaled to its own largest entry.


def show(network, side, title):
    filters = network.units.effective_filters(network.W)[:, :-1]  # the last column is the bias
    figure, axes = plt.subplots(2, len(filters) // 2, figsize=(8, 2.4))
    for axis, row in zip(axes.flat, filters, strict=True):
        largest = np.abs(row).max()
        axis.imshow(row.reshape(side, side), cmap="RdBu_r", vmin=-largest, vmax=largest)
        axis.axis("off")
    figure.suptitle(title)


show(drawn.network, 5, "as drawn")
show(result.network, 5, "trained")

# %%
# The columns that one unit makes of an image are the means of its activation over the windows of each cell.

# sphinx_gallery_thumbnail_number = 3
unit = 0
activations = result.network.units.features(result.network.W, digits.test.images[:6])
columns = activations.reshape(6, 2, 2, -1)[..., unit]
figure, axes = plt.subplots(2, 6, figsize=(8, 2.8))
for image, cells, (above, below) in zip(digits.test.images, columns, axes.T, strict=False):
    above.imshow(image, cmap="gray_r")
    below.imshow(cells, cmap="viridis", vmin=0, vmax=1)
    above.axis("off")
    below.axis("off")
figure.suptitle("six test images, and the four columns that unit 0 makes of each")
plt.show()

# %%
# Whole-image units ``u'Xv + b`` have filters of the size of the image, and of rank one: rows times columns.

bilinear = varpro_nn.configure("bilinear", n_units=16, n_subnetworks=1, images_per_subnetwork=1000)
result = varpro_nn.run(bilinear, digits)
print(f"test accuracy {result.metrics['test_accuracy']:.4f}")
show(result.network, 8, "16 bilinear units, trained")
plt.show()
