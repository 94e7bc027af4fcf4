import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose, assert_array_equal

from varpro_nn.units.scalarisation import Scalarisation, outer

CASES = [
    pytest.param(Scalarisation(kind, shape, rank), id=f"{kind}-{name}-rank{rank}")
    for kind, name, shape, rank in (
        ("dense", "rectangular", (3, 5), 1),
        ("dense", "stripes", (2, 3, 5), 1),
        ("quadratic", "gray", (4, 4), 1),
        ("quadratic", "gray", (4, 4), 3),
        ("quadratic", "colour", (3, 4, 4), 3),
        ("quadratic", "cube", (3, 3, 3), 1),
        ("bilinear", "gray", (4, 4), 1),
        ("bilinear", "rectangular", (3, 5), 3),
        ("bilinear", "stripes", (2, 3, 5), 3),
        ("bilinear", "row", (6,), 3),
        ("tensor", "gray", (4, 4), 3),
        ("tensor", "rectangular", (3, 5), 1),
        ("tensor", "colour", (3, 4, 4), 3),
        ("tensor", "cube", (3, 3, 3), 3),
        ("tensor", "row", (6,), 1),
    )
]
EVERY_FORM = pytest.mark.parametrize("form", CASES)


def draw(form, rng, h=3):
    return rng.standard_normal((h, form.n_weights))


@EVERY_FORM
def test_filter_gives_the_sum_of_the_products(form, rng):
    """<F, X> = sum over terms of the contracted image, loop by loop."""
    W, X = draw(form, rng), rng.standard_normal(form.shape)
    F = form.filters(W)
    assert F.shape == (3, X.size)
    kind = "dense" if X.ndim == 1 else form.kind  # a single axis is contracted with one vector
    for filter_, w in zip(F, W, strict=True):
        if X.ndim == 1:
            w = np.append(w[:-1].reshape(form.rank, -1).sum(axis=0), 0)
        terms = w[:-1].reshape(1 if X.ndim == 1 else form.rank, -1)
        expected = sum(reference._term(kind, X, a) for a in terms)
        assert_allclose(filter_ @ X.ravel(), expected, rtol=1e-11, atol=1e-12)


@EVERY_FORM
def test_pull_back_is_the_chain_rule(form, rng):
    """Derivatives by the filters times finite differences of the filters."""
    W = draw(form, rng)
    G = rng.standard_normal((5, *form.filters(W).shape))
    dF = reference.derivative(form.filters, W)  # (h, pixels, h, p)
    expected = np.einsum("bid,idjl->bjl", G, dF)
    pulled = form.pull_back(W, G)
    assert pulled.shape == (5, 3, form.n_weights - 1)
    assert_allclose(pulled, expected[..., :-1], rtol=1e-8, atol=1e-9)
    assert_array_equal(expected[..., -1], 0)  # the filter knows nothing of the bias


@EVERY_FORM
def test_pull_back_is_linear_and_of_one_row_at_a_time(form, rng):
    W = draw(form, rng)
    G = rng.standard_normal((4, *form.filters(W).shape))
    pulled = form.pull_back(W, G)
    assert_allclose(form.pull_back(W, 2 * G[:1] - G[1:2]), 2 * pulled[:1] - pulled[1:2], rtol=1e-9)
    order = np.array([2, 0])
    assert_allclose(form.pull_back(W[order], G[:, order]), pulled[:, order], rtol=1e-12)


@EVERY_FORM
def test_single_precision_stays(form, rng):
    W = draw(form, rng)
    G = rng.standard_normal((2, *form.filters(W).shape))
    single, V = G.astype(np.float32), W.astype(np.float32)
    assert form.filters(V).dtype == form.pull_back(V, single).dtype == np.float32
    assert_allclose(form.filters(V), form.filters(W), rtol=1e-4, atol=1e-5)
    assert_allclose(form.pull_back(V, single), form.pull_back(W, G), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "shape", "tied", "lengths"),
    [
        ("quadratic", (4, 4), (0, 0), (4,)),
        ("quadratic", (3, 4, 4), (0, 1, 1), (3, 4)),
        ("quadratic", (3, 3, 3), (0, 1, 1), (3, 3)),
        ("bilinear", (4, 4), (0, 1), (4, 4)),
        ("bilinear", (3, 4, 5), (0, 1, 2), (3, 4, 5)),
        ("tensor", (4, 4), (0, 0), (4,)),
        ("tensor", (3, 3, 3), (0, 0, 0), (3,)),
        ("tensor", (4, 3, 4), (0, 1, 0), (4, 3)),
        ("tensor", (4, 5), (0, 1), (4, 5)),
        ("dense", (3, 4, 5), (0,), (60,)),
        ("dense", (7,), (0,), (7,)),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_which_vectors_are_tied(kind, shape, tied, lengths):
    form = Scalarisation(kind, shape, 1 if kind == "dense" else 2)
    assert form.tied == tied
    assert form.lengths == lengths
    assert form.n_weights == form.rank * sum(lengths) + 1


@EVERY_FORM
def test_a_filter_has_the_degree_of_its_axes(form, rng):
    """Scaling all vectors by a scales the filter by a to the number of contracted axes."""
    W = draw(form, rng)
    expected = 1.7 ** len(form.axes) * form.filters(W)
    assert_allclose(form.filters(1.7 * W), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n_vectors", [0, 1, 2, 3])
def test_outer(n_vectors, rng):
    vectors = [rng.standard_normal((2, length)) for length in (3, 2, 4)[:n_vectors]]
    products = outer(vectors, 2, np.float64)
    for term in range(2):
        expected = np.ones(())
        for vector in vectors:
            expected = np.multiply.outer(expected, vector[term])
        assert_allclose(products[term], expected.ravel(), rtol=1e-14)
