"""The checks of scikit-learn itself. Two may fail, and checks of array-API input are skipped."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from varpro_nn import VarProClassifier, VarProFeatures, VarProRegressor

FEW = {"n_units": 8, "n_subnetworks": 1, "max_nfev": 2, "random_state": 0}
# What holds instead is tested in test_classifier.py and test_output_layer.py.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "sub-networks draw rows and starting units "
    "without weights: a row twice is a row of weight two in the output layer alone",
    "check_methods_subset_invariance": "products in single precision agree to 1e-6, not 1e-7, if "
    "there are other rows beside; on some machines they do better",
}


# Without SCIPY_ARRAY_API scikit-learn skips its checks of array-API input, which is not supported.
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [VarProClassifier(**FEW), VarProRegressor(**FEW), VarProFeatures(**FEW)],
    expected_failed_checks=lambda _: EXPECTED,
    xfail_strict=False,
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)
