"""
Images that come and go
=======================

A ridge layer follows from sums over the training images. ``RidgeLayer`` keeps them: images are added to the layer and removed from it,
and what is removed leaves no trace but rounding (exact unlearning of the output layer; the units stay as they were trained).
"""

# %%
# Units are trained once, on the first 500 images. They do not change below.

import dataclasses

import matplotlib.pyplot as plt
import numpy as np

import varpro_nn

digits = varpro_nn.load("digits")
images, labels = digits.train.images, digits.train.labels
config = varpro_nn.configure(
    "bilinear", n_units=60, n_subnetworks=3, images_per_subnetwork=400, n_train=500
)
network = varpro_nn.run(config, digits).network


def test_accuracy(layer):
    changed = dataclasses.replace(network, A=layer.solve(ridge=1.0))
    return np.mean(changed.predict(digits.test.images) == digits.test.labels)


# %%
# A hundred images at a time. Of the images 300 to 799, seven in ten come with the label of the next digit.

W = network.W.astype(np.float64)  # double precision: images are to come and go
layer = varpro_nn.RidgeLayer(network.units, W, n_classes=10)
number = np.arange(len(labels))
wrong = (number >= 300) & (number < 800) & (np.random.default_rng(0).random(len(labels)) < 0.7)
given = np.where(wrong, (labels + 1) % 10, labels)

steps, accuracies = [], []
for start in range(0, 1500, 100):
    layer.add_images(images[start : start + 100], given[start : start + 100])
    steps.append(layer.n_images)
    accuracies.append(test_accuracy(layer))
print("images:", layer.n_images, "kept as", layer.form)

# %%
# The images with wrong labels are found out, and taken out. No pass over the others is needed.

layer.remove_images(images[wrong], given[wrong])
print("images left:", layer.n_images)
print("test accuracy", accuracies[-1].round(4), "->", test_accuracy(layer).round(4))

# %%
# The layer is that of a network that has never seen them, to rounding.

never = varpro_nn.RidgeLayer(network.units, W, n_classes=10)
never.add_images(images[~wrong], labels[~wrong])
difference = np.abs(layer.solve(ridge=1.0) - never.solve(ridge=1.0)).max()
print(f"largest difference of a linear weight: {difference:.1e}")

# %%

figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
axis.axvspan(300, 800, color="0.9", label="most labels are wrong")
axis.plot(steps, accuracies, ".-", label="images added")
axis.plot(layer.n_images, test_accuracy(layer), "*", markersize=14, label="wrong ones removed")
axis.set(xlabel="images in the layer", ylabel="test accuracy")
axis.legend()
plt.show()
