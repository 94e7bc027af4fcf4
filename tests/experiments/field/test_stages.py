import numpy as np
import pytest

from experiments.field import stages
from varpro_nn import configure, load, whole_image_units


@pytest.mark.usefixtures("mnist")
def test_every_knowledge_has_a_row(run_script):
    rows = run_script(stages, "mnist", "--quick")[1]["rows"]
    assert [row["known"] for row in rows] == list(stages.KNOWN)
    untrained, *trained = (row["held_out_accuracy"] for row in rows)
    assert np.mean(trained) > untrained


@pytest.mark.parametrize("known", ["all columns", "leading directions", "outputs"])
def test_what_a_stage_knows(known, monkeypatch, rng):
    """Of images that were not there when it was learnt."""
    monkeypatch.setattr(stages, "N_DIRECTIONS", 3)
    train = load("digits").train
    units = whole_image_units("bilinear", (8, 8), 2)
    W = rng.standard_normal((6, units.n_weights)).astype(np.float32)
    config = configure("bilinear", data="digits")
    found = stages.learn(known, units, W, config, train.images[:900], train.labels[:900], rng)
    columns = found.columns(train.images[900:])
    every = found.units.features(W, train.images[900:])
    if known == "all columns":
        np.testing.assert_array_equal(columns, every)
    elif known == "leading directions":
        assert columns.shape[1] == 3
        np.testing.assert_allclose(found.matrix.T @ found.matrix, np.eye(3), atol=1e-6)
        total = np.trace(np.cov(every.T))
        assert np.trace(np.cov(columns.T)) > 0.6 * total
    else:
        assert columns.shape[1] == 10
        guessed = (columns - columns.mean(axis=0)).argmax(axis=1)
        assert np.mean(guessed == train.labels[900:]) > 0.3  # chance is 0.1
