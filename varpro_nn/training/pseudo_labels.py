"""Bootstrap: train the network further on images without labels, by its own guesses.

Section 5 of the paper. The network labels the images itself. Then "a full training pass" runs on
them as on the training set, with the guesses instead of labels: sub-networks start from their
weights, and the output layer is fitted again. The new network agrees with the guesses, and a
network with many columns agrees with almost any labels that it was fitted to. This agreement is
**not** accuracy, and says nothing about accuracy. Nothing in this module takes a true label.

References
----------
V. Pereyra, Neural networks for image classification using quadratic scalarization and variable
projections for fast training (2019), section 5 (the rule) and 8.1 (the squashing of outputs).
"""

from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from varpro_nn._typing import FloatArray, LabelArray
from varpro_nn.compute.compute import Compute
from varpro_nn.data.augmentation import NO_DISTORTION, Augmentation
from varpro_nn.data.images import check_images
from varpro_nn.data.training_set import TrainingSet
from varpro_nn.model.network import Network, probabilities
from varpro_nn.output.ridge_fit import fit_ridge
from varpro_nn.training.config import Rule, SubnetworkSettings
from varpro_nn.training.subnetwork import SubnetworkPlan
from varpro_nn.training.subnetworks import train_subnetworks

MARGIN = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Guesses:
    """Labels that a network guessed.

    Attributes
    ----------
    codes : ndarray of int, shape (n,)
        Class numbers.
    ambiguous : ndarray of bool, shape (n,)
        Where the rule could not decide and the class was drawn at random.
    """

    codes: LabelArray
    ambiguous: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class BootstrapResult:
    """The network after the pass, and what it was trained on.

    Attributes
    ----------
    network : Network
    guesses : Guesses
    agreement_with_guesses : float
        Share of images that the new network gives the class it was told. Not accuracy.
    """

    network: Network
    guesses: Guesses
    agreement_with_guesses: float


def guess(outputs: FloatArray, rule: Rule, rng: np.random.Generator) -> Guesses:
    """Guess classes from the outputs of a network.

    Parameters
    ----------
    outputs : ndarray, shape (n, k)
    rule : {"margin", "margin-logistic", "argmax"}
        ``margin`` is the paper's: outputs are squashed by a sigmoid and normalised to sum 1;
        with v1 and v2 the two largest, the class of v1 is guessed if v1 - v2 > 0.2 v1, else a
        class is drawn at random. The paper's sigmoid is the hyperbolic tangent (its section
        8.2); ``margin-logistic`` squashes by the logistic function instead, which lifts 0 to
        1/2, so that far more guesses are random (README.md has the numbers). ``argmax`` takes
        the largest output always.
    rng : numpy.random.Generator
        For the random classes.
    """
    if rule not in get_args(Rule):
        msg = f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}."
        raise ValueError(msg)
    codes = np.argmax(outputs, axis=1).astype(np.int64)
    ambiguous = np.zeros(len(outputs), dtype=bool)
    if rule != "argmax":
        squashed = np.tanh(outputs) if rule == "margin" else 0.5 + 0.5 * np.tanh(outputs / 2)
        # The paper divides by the sum first. That cancels in the comparison, as long as the sum
        # is positive: outputs of a fit to 0 and 1 sum to 1, and squashed ones to nearly that.
        second, first = np.partition(squashed, -2, axis=1)[:, -2:].T
        ambiguous = ~(first - second > MARGIN * first)
        codes[ambiguous] = rng.integers(0, outputs.shape[1], size=np.count_nonzero(ambiguous))
    return Guesses(codes, ambiguous)


def bootstrap(
    network: Network,
    images: ArrayLike,
    settings: SubnetworkSettings,
    compute: Compute,
    *,
    distortion: Augmentation = NO_DISTORTION,
    rule: Rule = "margin",
    ridge: float | None = None,
    seed: int | np.random.SeedSequence = 0,
) -> BootstrapResult:
    """Run one full training pass on unlabelled images.

    Parameters
    ----------
    network : Network
        Trained. Its units, in their order, are cut into ``settings.n_subnetworks`` equal parts,
        which are the sub-networks to train further.
    images : array_like, shape (n, *image_shape)
    distortion : Augmentation
        Distortion of the images of sub-networks; by default none.
    rule : {"margin", "margin-logistic", "argmax"}
        How to guess; see :func:`guess`.
    ridge : float, optional
        Of the output layer on the guesses; by default that of ``settings``.

    Raises
    ------
    ValueError
        If the units cannot be cut into that many equal parts.
    """
    checked = check_images(images, image_shape=network.image_shape)
    h, p = network.W.shape
    n = settings.n_subnetworks
    if h % n:
        msg = f"n_subnetworks must divide the {h} units of the network, got {n}."
        raise ValueError(msg)
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    guess_seed, train_seed = root.spawn(2)
    outputs = network.decision_function(checked, n_jobs=compute.n_jobs)
    if network.output_layer != "ridge":
        # The rules compare outputs that estimate probabilities.
        outputs = probabilities(outputs, network.output_layer)
    guesses = guess(outputs, rule, np.random.default_rng(guess_seed))
    of_one: Any = replace(network.units, n_units=h // n)  # type: ignore[type-var]
    start = network.W.reshape(n, h // n, p).astype(np.float64)
    training = TrainingSet(checked, guesses.codes, len(network.classes))
    plan = SubnetworkPlan(of_one, settings, distortion, train_seed)
    trained = train_subnetworks(plan, training, compute, start=start)
    # A failed sub-network keeps its old weights.
    W = np.concatenate([start[s.index] if s.W is None else s.W for s in trained], dtype=np.float32)
    ridge = settings.ridge if ridge is None else ridge
    # The primal form even for more columns than images: rounding would differ in the other.
    layer = fit_ridge(network.units, W, training, compute, ridge=ridge, form="primal")
    remembered = {**network.training, "bootstrap": rule}
    trained_further = network.with_weights(W, layer.A)
    after = replace(trained_further, output_layer="ridge", training=remembered)
    agreement = np.mean(after.predict_codes(checked, n_jobs=compute.n_jobs) == guesses.codes)
    return BootstrapResult(after, guesses, float(agreement))
