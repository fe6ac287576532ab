"""Losses: pure functions of scores. Column 0 holds the positive, the others the negatives."""

from torch import Tensor
from torch.nn.functional import softplus


def bce(scores_BNC: Tensor, counts_BNC: Tensor) -> Tensor:
    """-log sigmoid(s+) - sum over negatives of log(1 - sigmoid(s-)), averaged over the steps that count.

    ``counts_BNC`` is True where a score counts; a step counts iff its positive does. Shapes (B, N, 1 + negatives).
    Source: SASRec, section III-E (there summed over steps); SAIR, eq. (12).
    """
    scores_BNC = scores_BNC.float()
    counts_BNC = counts_BNC & counts_BNC[..., :1]
    positive_BN = softplus(-scores_BNC[..., 0]) * counts_BNC[..., 0]
    negative_BNC = softplus(scores_BNC[..., 1:]) * counts_BNC[..., 1:]
    return (positive_BN.sum() + negative_BNC.sum()) / counts_BNC[..., 0].sum().clamp_min(1)
