"""The patch operator against loops, and the ways to the same pre-activations against each other."""

import json
import sys
from functools import partial

import numpy as np
import pytest

from experiments.claims import patch_operator
from varpro_nn import patch_units
from varpro_nn.units.windows import Windows

SHAPES = [(9, 9), (1, 7, 8), (3, 8, 8)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stride", [1, 2])
def test_operator_is_phi_of_the_source(shape, stride, rng):
    """Entry by entry: z_{i + s a, j + s b, c} stands in row (i, j, c) and column (a, b)."""
    windows = Windows(shape, 3, stride, 1)
    Z = rng.standard_normal((1, 1, *shape)[-4:]).astype(np.float32)
    n_rows, n_columns = windows.places
    d = Z.shape[1]
    expected = np.empty((9 * d, n_rows * n_columns), dtype=np.float32)
    for b in range(n_columns):
        for a in range(n_rows):
            for c in range(d):
                for j in range(3):
                    for i in range(3):
                        value = Z[0, c, a * stride + i, b * stride + j]
                        expected[c * 9 + j * 3 + i, b * n_rows + a] = value
    P_phi = patch_operator.operator(windows)
    phi = (P_phi @ patch_operator.vec(Z)).reshape(expected.T.shape).T
    np.testing.assert_array_equal(phi, expected)
    assert P_phi.nnz == expected.size == P_phi.shape[0]
    assert set(P_phi.data) == {1}


def test_pixels_seen_are_counted_by_hand():
    np.testing.assert_array_equal(
        patch_operator.sees(Windows((4, 5), 3, 1, 1)),
        np.outer([1, 2, 2, 1], [1, 2, 3, 2, 1]),
    )
    np.testing.assert_array_equal(
        patch_operator.sees(Windows((5, 6), 2, 3, 1)),
        np.outer([1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 0]),
    )


@pytest.mark.parametrize("shape", [(12, 12), (3, 10, 10)])
@pytest.mark.parametrize("stride", [1, 2])
def test_all_ways_agree(shape, stride, rng):
    units = patch_units("dense", shape, 5, window=4, stride=stride, grid=2)
    images = rng.uniform(size=(7, *shape)).astype(np.float32)
    F = units.init(images, rng).astype(np.float32)
    X = images.reshape((7, -1, *shape[-2:]))
    P_phi = patch_operator.operator(units.windows)
    found = patch_operator.checks(units, P_phi, F, X)
    assert found["windows_equal"]
    assert found["operators_equal"]
    assert found["counts_equal"]
    assert found["largest_difference"] < 1e-5 * found["largest_preactivation"]
    expected = patch_operator.by_rows(units, F, X)
    for way in (
        partial(patch_operator.by_operator, P_phi), patch_operator.by_view, patch_operator.by_fft
    ):  # fmt: skip
        np.testing.assert_allclose(way(units, F, X), expected, atol=1e-5)
        features = patch_operator.features_by(way, units, F, X)
        np.testing.assert_allclose(features, units.features(F, images), atol=1e-5)


def test_checks_can_fail(rng):
    units = patch_units("dense", (8, 8), 2, window=3, grid=2)
    images = rng.uniform(size=(3, 8, 8)).astype(np.float32)
    F = units.init(images, rng).astype(np.float32)
    P_phi = patch_operator.operator(units.windows)
    P_phi.indices[0] += 1
    found = patch_operator.checks(units, P_phi, F, images[:, None])
    assert not found["windows_equal"]
    assert not found["counts_equal"]
    assert found["largest_difference"] > 1e-3


def test_quick_run(monkeypatch, capsys, tmp_path):
    file = str(tmp_path / "rows.jsonl")
    monkeypatch.setattr(sys, "argv", ["experiment", "--quick", "--output", file])
    patch_operator.main()
    printed = capsys.readouterr().out.splitlines()
    result = json.loads(printed[-1])
    (of_operator,) = result["operators"]
    assert of_operator["nonzeros"] == of_operator["shape"][0] == 6 * 6 * 9
    assert of_operator["bytes_dense"] == 4 * 324 * 64
    assert of_operator["bytes_sparse"] == 4 * (3 * 324 + 1)
    assert len(result["ways"]) == 8
    assert all(row["features"]["cpu_seconds"] > 0 for row in result["ways"])
    patch_operator.main()  # nothing is measured again
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ways"] == result["ways"]
