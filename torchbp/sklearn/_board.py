"""An estimator's curves in TensorBoard: one network's, or the mean of several networks, between the lowest and the highest."""

from collections.abc import Sequence

from torchbp.fitting import Learner


class Board:
    """Writes each epoch's cost and score of the networks.

    Args:
        log_dir: the run's folder.
        networks: the number of networks; for several, charts show the lowest and the highest value too.
    """

    def __init__(self, log_dir: str, networks: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir)
        if networks > 1:
            self._writer.add_custom_scalars(
                {"networks": {name: ["Margin", [name, f"{name}_low", f"{name}_high"]] for name in ("loss", "score")}}
            )

    def write(self, epoch: int, learners: Sequence[Learner]) -> None:
        for name, curves in (("loss", [s.costs for s in learners]), ("score", [s.scores for s in learners])):
            values = [curve[-1] for curve in curves if curve]
            if not values:
                continue
            self._writer.add_scalar(name, sum(values) / len(values), epoch)
            if len(values) > 1:
                self._writer.add_scalar(f"{name}_low", min(values), epoch)
                self._writer.add_scalar(f"{name}_high", max(values), epoch)

    def close(self) -> None:
        self._writer.close()
