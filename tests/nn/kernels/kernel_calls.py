"""Every kernel with its plain version and random arguments for both."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sairlib.batch import PAD
from sairlib.nn.kernels.attention import causal_attention, plain_causal_attention
from sairlib.nn.kernels.bpr_max import bpr_max, plain_bpr_max
from sairlib.nn.kernels.distances import plain_squared_distances, squared_distances
from sairlib.nn.kernels.lookup import plain_rows, rows
from sairlib.nn.kernels.products import costs_of_products, plain_costs_of_products
from sairlib.nn.kernels.softmax import plain_softmax_of_products, softmax_of_products
from sairlib.nn.kernels.windows import plain_recent, recent


class Call(NamedTuple):
    """Two functions of the same arguments; ``function`` is the name of the autograd function in the fast one.

    ``real``: which entries of the result have a meaning; None for all.
    """

    fast: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    arguments: list[Tensor]
    function: str
    real: Tensor | None = None

    def on(self, device: str) -> tuple[list[Tensor], list[Tensor]]:
        """The arguments on ``device``, and those among them that need gradients."""
        moved = [argument.detach().to(device) for argument in self.arguments]
        return moved, [argument.requires_grad_() for argument in moved if argument.is_floating_point()]


def attention(n: int, width: int) -> Call:
    heads = 1 + n % 2
    joint = 2 * torch.randn(2, n, heads, 3 * width)
    parts = [part.transpose(1, 2) for part in joint.split(width, -1)]  # not contiguous, as in the layer
    return Call(causal_attention, plain_causal_attention, parts, "_Blocked")


def lookup(n: int, width: int) -> Call:
    pad = [None, 0, 2][n % 3]
    ids = torch.randint(3 + width, (n, 2)).T  # not contiguous
    table = torch.randn(3 + width, width, dtype=torch.float64)
    return Call(partial(rows, pad=pad), partial(plain_rows, pad=pad), [table, ids], "_Rows")


def distances(n: int, width: int) -> Call:
    states, vectors = torch.randn(2, n, width), torch.randn(2, n, 3, width)
    return Call(squared_distances, plain_squared_distances, [states, vectors], "_SquaredDistances")


def windows(n: int, width: int) -> Call:
    length = 1 + n % 7  # also longer than the sequence
    vectors = torch.randn(2, n % 5 + 1, width)
    return Call(partial(recent, length=length), partial(plain_recent, length=length), [vectors], "_Recent")


def softmax(n: int, width: int) -> Call:
    targets = torch.randint(6, (n, 1 + n % 2))
    states, vectors, bias = 2 * torch.randn(n, width), torch.randn(6, width), torch.randn(6)

    def fast(targets: Tensor, states: Tensor, vectors: Tensor, bias: Tensor | None = None) -> Tensor:
        return softmax_of_products(states, vectors, bias, targets)

    def plain(targets: Tensor, states: Tensor, vectors: Tensor, bias: Tensor | None = None) -> Tensor:
        return plain_softmax_of_products(states, vectors, bias, targets)

    arguments = [targets, states, vectors, bias] if width % 2 else [targets, states, vectors]
    return Call(fast, plain, arguments, "_CostsOfProducts", targets != PAD)


def products(n: int, width: int) -> Call:
    candidates = torch.randint(6, (n, 1 + n % 2, 3))
    states, vectors, bias = torch.randn(n, width), torch.randn(6, width), torch.randn(6)

    def cost(scores_XM: Tensor, candidates: Tensor) -> Tensor:
        scores = scores_XM.gather(1, candidates.flatten(1)).view(candidates.shape)
        return torch.logsumexp(scores, -1) - scores[..., 0]

    def fast(candidates: Tensor, states: Tensor, vectors: Tensor, bias: Tensor | None = None) -> Tensor:
        return costs_of_products(cost, states, vectors, bias, candidates[..., 0] != PAD, candidates)

    def plain(candidates: Tensor, states: Tensor, vectors: Tensor, bias: Tensor | None = None) -> Tensor:
        return plain_costs_of_products(cost, states, vectors, bias, candidates)

    arguments = [candidates, states, vectors, bias] if width % 2 else [candidates, states, vectors]
    return Call(fast, plain, arguments, "_CostsOfProducts", candidates[..., 0] != PAD)


def strongest(n: int, width: int) -> Call:
    scores, counts = 2 * torch.randn(2, n, 1 + width), torch.rand(2, n, 1 + width) < 0.7  # in some rows none counts
    scores[0, 0, 0] = -200.0 * (n % 2)  # a target far below its negatives
    options = {"regularisation": float(n % 3)}
    return Call(partial(bpr_max, **options), partial(plain_bpr_max, **options), [scores, counts], "_BPRMax")


CALLS: dict[str, Callable[[int, int], Call]] = {
    "attention": attention,
    "lookup": lookup,
    "distances": distances,
    "windows": windows,
    "softmax": softmax,
    "products": products,
    "bpr_max": strongest,
}


def our_functions(result: Tensor) -> set[str]:
    """Names of this package's autograd functions in the graph behind a result."""
    names, seen, queue = set(), set(), [result.grad_fn]
    while queue:
        node: Any = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue += [parent for parent, _ in node.next_functions]
            function = getattr(node, "_forward_cls", None)
            if function is not None and function.__module__.startswith("sairlib."):
                names.add(function.__name__)
    return names
