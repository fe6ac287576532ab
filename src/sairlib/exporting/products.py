"""Scores as products of a user's and an item's vector: what an index of nearest neighbours needs.

A product may differ from the score by a number that is the same for all items of a history; the order is the same.

    products      <s, v> + b                 =  <[s, 1], [v, b]>            (without b, s and v themselves)
    distances     b - ||s - p||^2            =  <[s, 1], [2 p, b - ||p||^2]> - ||s||^2
    mixture       w f(s1) + (1 - w) g(s2)    =  the two, side by side, the items' halves times w and 1 - w

The L1 distance, and heads from elsewhere, are no products.
"""

import torch
from torch import Tensor

from sairlib.batch import State
from sairlib.errors import UserError
from sairlib.models.heads import Distances, Mixture
from sairlib.models.recommender import Head, Products, one_tensor


def item_vectors(head: Head) -> Tensor:
    """The vectors of all items (M + 1, D'), PAD first. UserError if the score is no product."""
    if isinstance(head, Products):
        vectors_MD, bias_M = head.of(None)
        return vectors_MD if bias_M is None else torch.cat([vectors_MD, bias_M[:, None]], 1)
    if isinstance(head, Distances) and not head.l1:
        points_MD = head.points(None)
        squares_M = points_MD.square().sum(1)
        rest_M = -squares_M if head.bias is None else head.bias(None) - squares_M
        return torch.cat([2 * points_MD, rest_M[:, None]], 1)
    if isinstance(head, Mixture):
        return torch.cat([head.w * item_vectors(head.first), (1 - head.w) * item_vectors(head.second)], 1)
    raise _no_product(head)


def user_vectors(head: Head, states: State) -> Tensor:
    """Vectors (B, D') of states (B, D). UserError if the score is no product."""
    states_BD = one_tensor(states)
    if isinstance(head, Products) and head.bias is None:
        return states_BD
    if isinstance(head, Products) or (isinstance(head, Distances) and not head.l1):
        return torch.cat([states_BD, torch.ones_like(states_BD[:, :1])], 1)
    if isinstance(head, Mixture):
        first_BD, second_BD = states_BD.chunk(2, -1)
        return torch.cat([user_vectors(head.first, first_BD), user_vectors(head.second, second_BD)], 1)
    raise _no_product(head)


def _no_product(head: Head) -> UserError:
    kind = "the L1 distance" if isinstance(head, Distances) else type(head).__name__
    return UserError(
        f"format=vectors: this model scores by {kind}, which is no product of vectors;"
        " format=torch and format=onnx export its states and its scores"
    )
