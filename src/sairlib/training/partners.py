"""Training one model on several processes: each takes its part of every batch, and their gradients are summed."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sairlib import processes
from sairlib.batch import PAD, Batch, History, Negatives
from sairlib.models.recommender import Recommender
from sairlib.nn.layers import Table

Item = TypeVar("Item")


class _LossModule(nn.Module):
    """The loss as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, model: Recommender, function: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, batch: Batch, share: float) -> dict[str, Tensor]:
        return self.function(self.model, batch, share)


class Partners:
    """What a training step needs to know of the other processes. Creating it is collective.

    Every process makes the same batches, with the same negatives, and takes every n-th of their users. So a step of n
    processes is the step of one, but for rounding and dropout. ``tables`` are those that are trained by rows: of them
    only the rows that a step looked up are exchanged. The gradients of all other weights pass through torch's
    DistributedDataParallel, which sums them while the backward pass still runs. ``example`` is any batch: it shows
    whether a step uses all weights.
    """

    def __init__(
        self, model: Recommender, loss: Callable[..., dict[str, Tensor]], tables: list[Table], example: Batch
    ) -> None:
        self.tables = tables
        self.rank, self.size = processes.rank(), processes.size()
        module = _LossModule(model, loss)
        by_rows = {name for name, p in module.named_parameters() if any(p is table.weight for table in tables)}
        buffers = {name for name, _ in module.named_buffers()}  # constants, alike everywhere
        self.module: _LossModule | DistributedDataParallel = module
        if any(name not in by_rows for name, _ in module.named_parameters()):
            # The one way that torch has to leave something out.
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, by_rows | buffers)
            unused = _leaves_weights_out(module, example)
            self.module = DistributedDataParallel(module, find_unused_parameters=unused)
            self.module.register_comm_hook(None, _summed)

    def loss(self, model: Recommender, batch: Batch, share: float) -> dict[str, Tensor]:
        """The parts of the loss of this process's part of a piece."""
        parts: dict[str, Tensor] = self.module(batch, share)
        return parts

    def own(self, batches: Iterable[tuple[Batch, float]]) -> Iterator[tuple[Batch, float]]:
        """This process's part of each piece of a batch. The backward pass of the last exchanges the gradients."""
        for (batch, share), is_last in _with_last(batches):
            if isinstance(self.module, DistributedDataParallel):
                self.module.require_backward_grad_sync = is_last
            n_users = len(batch.history.users_B)
            rows = slice(self.rank, None, self.size)
            n_own = len(range(n_users)[rows])
            if n_own:
                yield _take(batch, rows), share * n_own / n_users
            elif is_last:  # a process without users takes part in the exchange too
                one = _take(batch, slice(1))
                yield one._replace(targets_BNS=torch.full_like(one.targets_BNS, PAD)), 0.0

    def exchange_rows(self) -> None:
        """Replace the gradient of each table that is trained by rows by the sum over all processes."""
        for table in self.tables:
            weight = table.weight
            gradient = weight.grad
            ids = weight.new_empty(0, dtype=torch.long) if gradient is None else gradient._indices()[0]
            values = weight.new_empty(0, weight.shape[1]) if gradient is None else gradient._values()
            n_rows = processes.everyones(len(ids))
            indices = _gathered(ids, n_rows)[None]
            summed = torch.sparse_coo_tensor(indices, _gathered(values, n_rows), weight.shape, check_invariants=False)
            weight.grad = summed


def _leaves_weights_out(module: _LossModule, example: Batch) -> bool:
    """Whether some weights get no gradient. Draws nothing from torch's generators, as far as one can see afterwards."""
    with torch.random.fork_rng():
        torch.stack(list(module(example, 1.0).values())).sum().backward()
    unused = any(p.grad is None for p in module.parameters())
    module.zero_grad()
    return unused


def _summed(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The sum of gradients over all processes; by default DistributedDataParallel gives their mean."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


def _gathered(rows: Tensor, n_rows: list[int]) -> Tensor:
    """The rows of all processes, one after the other; ``n_rows``: how many each has."""
    longest = rows.new_zeros(max(n_rows), *rows.shape[1:])  # processes exchange tensors of one shape only
    longest[: len(rows)] = rows
    everyones = [torch.empty_like(longest) for _ in n_rows]
    dist.all_gather(everyones, longest)
    return torch.cat([theirs[:n] for theirs, n in zip(everyones, n_rows, strict=True)])


def _take(batch: Batch, rows: slice) -> Batch:
    """Some users of a batch."""
    history, negatives = batch.history, batch.negatives
    times_BN = None if history.times_BN is None else history.times_BN[rows]
    if negatives is not None and not negatives.shared:
        log_expected = negatives.log_expected.expand(*negatives.items_BNSC.shape[:-1], -1)
        negatives = Negatives(negatives.items_BNSC[rows], log_expected[rows])
    return Batch(History(history.users_B[rows], history.items_BN[rows], times_BN), batch.targets_BNS[rows], negatives)


def _with_last(items: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
    """Each item, and whether it is the last one."""
    iterator = iter(items)
    item = next(iterator)
    for following in iterator:
        yield item, False
        item = following
    yield item, True
