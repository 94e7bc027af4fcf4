"""The settings of the output layer."""

from dataclasses import dataclass

from varpro_nn._settings import check_settings, documented, setting
from varpro_nn.output.features import VIEWS
from varpro_nn.output.output_layer import LAYERS


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """The output layer: the last linear layer, fitted on the features of all units."""

    layer: str = setting(
        "ridge", option="output_layer", choices=LAYERS, help="what the output layer minimises"
    )
    penalty: float | None = setting(
        None,
        option="output_penalty",
        least=0,
        help="penalty on the weights of the output layer; None: chosen on training images",
    )
    standardise: bool = setting(
        False,
        help="penalise a ridge layer as if its columns had variance 1; softmax and hinge always do",
    )
    n_copies: int = setting(
        0,
        least=0,
        help="number of distorted copies of all training images that the output layer sees too",
    )
    views: str = setting(
        "single",
        choices=tuple(VIEWS),
        gone={"shifts": "use flip or single"},
        help="test-time augmentation; flip: average the outputs of the image and its mirror image",
    )

    cells_below: int = setting(
        0,
        least=0,
        help="number of pooling cells along each side of the maps of lower layers, which the "
        "output layer then sees too; 0: it sees only the last layer",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.layer != "ridge" and self.penalty == 0:
            msg = f"output_penalty must be positive with the {self.layer} layer, got 0."
            raise ValueError(msg)
