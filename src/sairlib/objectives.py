"""What a model is asked to predict in training: from users to a batch, from a batch to the parts of the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sairlib.batch import PAD, Batch
from sairlib.data.sequences import SequenceStore
from sairlib.errors import UserError
from sairlib.losses import bce
from sairlib.models.recommender import Recommender


@dataclass(frozen=True)
class NextItem:
    """The next item at every step, against uniform negatives outside the user's training history (BCE).

    ``steps_per_batch`` is what a batch's summed loss is divided by: with the mean over the epoch every step of the data
    weighs the same. None takes the batch's own count, under which the steps of short sequences, grouped by length
    into batches of their own, would weigh many times those of long ones.
    """

    n_negatives: int
    steps_per_batch: float | None = None

    def batch(
        self, store: SequenceStore, users_B: Tensor, generator: torch.Generator, n_steps: int | None = None
    ) -> Batch:
        """Sequences of ``users_B`` and fresh negatives; ``n_steps`` as in ``SequenceStore.train_window``."""
        items_BN, targets_BN = store.train_window(users_B, n_steps)
        negatives_BNC = store.unseen.draw(users_B, (items_BN.shape[1], self.n_negatives), generator)
        return Batch(users_B, items_BN, targets_BN, negatives_BNC)

    def loss(self, model: Recommender, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Named scalars whose sum is to be minimised. ValueError for a model that may not train every step.

        ``share``: of a batch that comes in pieces, this is so much; the sums over its pieces are then the batch's, if
        ``steps_per_batch`` is given.
        """
        if not model.every_step:
            raise UserError(
                f"{type(model).__name__} sees the whole sequence: training every step would leak the target"
            )
        states_BND = model.encode(batch.items_BN, batch.users_B)
        candidates_BNC = torch.cat([batch.targets_BN[..., None], batch.negatives_BNC], -1)
        scores_BNC = model.score(states_BND, candidates_BNC)
        return {
            "bce": bce(scores_BNC, candidates_BNC != PAD, self.steps_per_batch),
            **{name: share * value for name, value in model.regularisers().items()},
        }
