"""
Accuracy against the number of units
====================================

Trained units against random units of the same number, with the same output layer: what training is worth. A kernel approximation of
scikit-learn with as many columns stands beside them.
"""

# %%
# Whole-image bilinear units, a ridge layer, three seeds each. Random units are drawn by the same rule that training starts from.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline

import varpro_nn

digits = varpro_nn.load("digits")
numbers = [5, 10, 20, 40, 80]
seeds = range(3)


def accuracy(n_units, seed, **settings):
    config = varpro_nn.configure(
        "bilinear",
        n_units=n_units,
        n_subnetworks=max(1, n_units // 20),
        images_per_subnetwork=1000,
        seed=seed,
        **settings,
    )
    return varpro_nn.run(config, digits, n_jobs=1).metrics["test_accuracy"]


def nystroem(n_columns, seed):
    rows = [part.images.reshape(len(part), -1) for part in (digits.train, digits.test)]
    kernel = Nystroem(n_components=n_columns, gamma=0.05, random_state=seed)
    model = make_pipeline(kernel, RidgeClassifierCV(np.logspace(-4, 1, 6)))
    return model.fit(rows[0], digits.train.labels).score(rows[1], digits.test.labels)


table = {
    "trained": [[accuracy(n, s) for s in seeds] for n in numbers],
    "random": [[accuracy(n, s, scheme="untrained") for s in seeds] for n in numbers],
    "Nystroem, RBF, gamma 0.05": [[nystroem(n, s) for s in seeds] for n in numbers],
}

# %%
# Means of three seeds.

print(f"{'units':28}", *(f"{n:8}" for n in numbers))
for name, shares in table.items():
    print(f"{name:28}", *(f"{share:8.4f}" for share in np.mean(shares, axis=1)))

# %%

figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
for (name, shares), mark in zip(table.items(), "os^", strict=True):
    mean, spread = np.mean(shares, axis=1), np.std(shares, axis=1)
    axis.errorbar(numbers, mean, spread, marker=mark, capsize=3, label=name)
axis.set(xscale="log", xlabel="units (columns of the output layer)", ylabel="test accuracy")
axis.set_xticks(numbers, [str(n) for n in numbers])
axis.minorticks_off()
axis.legend()
plt.show()
