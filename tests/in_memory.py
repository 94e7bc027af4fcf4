"""Training in tests: sub-networks on arrays in memory, and a store that keeps them there."""

from varpro_nn.compute.compute import Compute
from varpro_nn.data.augmentation import NO_DISTORTION
from varpro_nn.training.subnetwork import SubnetworkPlan
from varpro_nn.training.subnetworks import train_subnetworks


class MemoryStore(dict):
    """Sub-networks by index, in the order in which they were written.

    ``landed`` is called with each of them.
    """

    def __init__(self, there=(), landed=lambda subnetwork: None):
        super().__init__({s.index: s for s in there})
        self.landed = landed

    def read(self):
        return dict(self)

    def write(self, subnetwork):
        self[subnetwork.index] = subnetwork
        self.landed(subnetwork)


def train(
    units, training, settings, *,
    n_jobs=1, executor=None, progress=False, distortion=NO_DISTORTION, seed=0, **options,
):  # fmt: skip
    """Train sub-networks by processes of this machine, or by an executor."""
    plan = SubnetworkPlan(units, settings, distortion, seed)
    with Compute(n_jobs, executor=executor, progress=progress) as compute:
        return train_subnetworks(plan, training, compute, **options)
