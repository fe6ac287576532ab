"""Losses: pure functions of scores. Column 0 holds the positive, the others the negatives."""

from torch import Tensor
from torch.nn.functional import softplus


def bce(scores_BNC: Tensor, counts_BNC: Tensor, n_steps: float | None = None) -> Tensor:
    """-log sigmoid(s+) - sum over negatives of log(1 - sigmoid(s-)), summed over the steps that count, / ``n_steps``.

    ``counts_BNC`` is True where a score counts; a step counts iff its positive does. Shapes (B, N, 1 + negatives).
    ``n_steps`` None: the number of steps that count, which makes it their mean.
    Source: SASRec, section III-E (there the sum alone); SAIR, eq. (12).
    """
    scores_BNC = scores_BNC.float()
    counts_BNC = counts_BNC & counts_BNC[..., :1]
    positive_BN = softplus(-scores_BNC[..., 0]) * counts_BNC[..., 0]
    negative_BNC = softplus(scores_BNC[..., 1:]) * counts_BNC[..., 1:]
    total = positive_BN.sum() + negative_BNC.sum()
    return total / (n_steps or counts_BNC[..., 0].sum().clamp_min(1))
