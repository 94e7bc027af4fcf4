"""Dense linear algebra of the package: it knows matrices and blocks of rows, never images.

``qr`` eliminates the linear weights for given nonlinear ones (orthogonal factorisations,
rank decided, nothing squared); ``ridge`` solves the one large problem that joins the
sub-networks (normal equations summed over blocks, every ridge from one eigendecomposition);
``dual`` solves the same problem where columns outnumber rows, from blocks of columns; ``rows``
keeps the few rows for a problem that changes; ``fixed`` eliminates columns that never change.
"""

from varpro_nn.linalg.dual import DualPath, KernelAccumulator
from varpro_nn.linalg.fixed import FixedColumns, least_squares_beside_fixed
from varpro_nn.linalg.gram import GramAccumulator
from varpro_nn.linalg.qr import (
    LinearSolution,
    StreamingQR,
    least_squares_with_ridge,
    schur_complement,
    small_equivalent,
)
from varpro_nn.linalg.ridge import (
    RidgePath,
    add_gram,
    column_tiles,
    definite_factor,
    left_out_errors,
    product_over_rows,
    run_tiles,
    spread,
)
from varpro_nn.linalg.rows import RowStore

__all__ = [
    "DualPath",
    "FixedColumns",
    "GramAccumulator",
    "KernelAccumulator",
    "LinearSolution",
    "RidgePath",
    "RowStore",
    "StreamingQR",
    "add_gram",
    "column_tiles",
    "definite_factor",
    "least_squares_beside_fixed",
    "least_squares_with_ridge",
    "left_out_errors",
    "product_over_rows",
    "run_tiles",
    "schur_complement",
    "small_equivalent",
    "spread",
]
