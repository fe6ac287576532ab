"""Optimisers: those of torch, and Adam for tables of which a step looks up few rows."""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sairlib.models.recommender import Recommender
from sairlib.nn.kernels.switch import allowed
from sairlib.nn.layers import Table
from sairlib.training.settings import TrainingSettings

RARELY = 16
"""Use RowAdam when a table has over this many times as many rows as a batch looks up; below, it is no faster."""
ROWS_AT_ONCE = 2**16
"""How many rows ``catch_up`` updates at once, so that its copies stay small compared to the table."""


def tables_by_rows(model: Recommender, settings: TrainingSettings, rows_per_batch: float) -> list[Table]:
    """The tables to train with RowAdam: those on CPU with far more rows than a batch looks up.

    Empty if a setting moves every row at every step or needs the whole gradient, or if only plain versions may run.
    """
    if not allowed() or settings.compile or settings.weight_decay or settings.grad_clip or settings.ema:
        return []
    if settings.optimizer == "adagrad" or not follows(settings.betas):
        return []
    tables = [module for module in model.modules() if isinstance(module, Table) and not module.whole]
    return [
        table for table in tables if len(table.weight) > RARELY * rows_per_batch and table.weight.device.type == "cpu"
    ]


def optimisers(model: Recommender, settings: TrainingSettings, tables: list[Table]) -> list[Optimizer]:
    """RowAdam for ``tables`` and a torch optimiser for all other weights; each only if it has weights."""
    weights = [p for p in model.parameters() if not any(p is table.weight for table in tables)]
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    result: list[Optimizer] = []
    if weights and settings.optimizer == "adagrad":
        result.append(torch.optim.Adagrad(weights, **common))
    elif weights:
        adam = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        result.append(adam(weights, betas=settings.betas, fused=True, **common))
    if tables:
        result.append(RowAdam(tables, settings.lr, settings.betas))
    return result


class RowAdam(Optimizer):
    """Adam (Kingma and Ba, 2015, without weight decay) that updates a row only when it is next looked up.

    In Adam, a row without a gradient still moves, by its fading momentum. After its last gradient at step t0, m fades
    as b1^k and v as b2^k. The movement that k steps leave pending is m / sqrt(v) times the sum over these steps of
    c_t (b1 / sqrt(b2))^(t - t0), with c_t = lr sqrt(1 - b2^t) / (1 - b1^t). Only this sum, one number per row, changes
    at every step. The row itself changes before ``tables`` look it up. The weights equal those of dense Adam except for
    rounding and for epsilon, which is added to sqrt(v) as of t0. ``torch.optim.SparseAdam`` leaves these movements out.

    Call ``catch_up()``, which updates every row, before a table's weight is used as a whole.
    """

    def __init__(self, tables: list[Table], lr: float, betas: tuple[float, float], eps: float = 1e-8) -> None:
        if not follows(betas):
            raise ValueError(
                f"betas={betas}: the pending movement of a row would grow without limit; b1 must be below sqrt(b2)"
            )
        super().__init__([table.weight for table in tables], {"lr": lr, "betas": betas, "eps": eps, "steps": 0})
        for table in tables:
            weight = table.weight
            ones_M = weight.new_ones(len(weight))
            self.state[weight] = {
                "m": torch.zeros_like(weight),
                "v": torch.zeros_like(weight),
                "seen_at": torch.zeros_like(ones_M),  # t0; whole numbers, exact up to 2^24 steps
                "faded": ones_M,  # (b1 / sqrt(b2))^(t - t0)
                "owed": torch.zeros_like(ones_M),
            }
            table.sparse = True  # its gradient holds only the rows that were looked up
            table.register_forward_pre_hook(self._before_lookup)

    def _before_lookup(self, table: Any, arguments: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # in evaluation all rows are up to date
            self._catch_up(table.weight, arguments[0].reshape(-1))

    def catch_up(self) -> None:
        """Update every row of every table."""
        for weight in self.param_groups[0]["params"]:
            for ids in torch.arange(len(weight), device=weight.device).split(ROWS_AT_ONCE):
                self._catch_up(weight, ids)

    @torch.no_grad()
    def _catch_up(self, weight: Tensor, ids: Tensor) -> None:
        group, state = self.param_groups[0], self.state[weight]
        behind = ids[state["seen_at"][ids] < group["steps"]]
        if not len(behind):
            return
        rows = _distinct(behind, len(weight))
        b1, b2 = group["betas"]
        m, v, missed = state["m"][rows], state["v"][rows], (group["steps"] - state["seen_at"][rows])[:, None]
        weight[rows] -= state["owed"][rows][:, None] * m / (v.sqrt() + group["eps"])
        state["m"][rows] = m * b1**missed
        state["v"][rows] = v * b2**missed
        self._mark_current(state, rows)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        for weight in group["params"]:
            if weight.grad is not None:  # other processes may have looked up rows that this one did not
                self._catch_up(weight, weight.grad._indices()[0])
        group["steps"] += 1
        (b1, b2), lr, t = group["betas"], group["lr"], group["steps"]
        rooted = math.sqrt(1 - b2**t)
        for weight in group["params"]:
            state = self.state[weight]
            state["faded"].mul_(b1 / math.sqrt(b2))
            state["owed"].add_(state["faded"], alpha=lr * rooted / (1 - b1**t))
            if weight.grad is None:
                continue
            ids = cast(Tensor, weight.grad._indices())[0]
            rows = _distinct(ids, len(weight))
            place_M = torch.empty(len(weight), dtype=torch.long, device=weight.device)
            place_M[rows] = torch.arange(len(rows), device=weight.device)
            gradient = weight.new_zeros(len(rows), weight.shape[1])
            gradient.index_add_(0, place_M[ids], weight.grad._values())
            m = state["m"][rows].lerp_(gradient, 1 - b1)
            v = state["v"][rows].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
            weight[rows] -= (lr / (1 - b1**t)) * m / (v.sqrt().div_(rooted).add_(group["eps"]))
            state["m"][rows], state["v"][rows] = m, v
            self._mark_current(state, rows)

    def _mark_current(self, state: dict[str, Tensor], rows: Tensor) -> None:
        state["seen_at"][rows] = self.param_groups[0]["steps"]
        state["faded"][rows] = 1
        state["owed"][rows] = 0


def follows(betas: tuple[float, float]) -> bool:
    """Whether ``RowAdam`` can follow Adam with these betas: m must fade faster than sqrt(v)."""
    return betas[0] < math.sqrt(betas[1])


def _distinct(ids: Tensor, n_rows: int) -> Tensor:
    """Each id once, in ascending order. Marking all rows of the table is faster than sorting."""
    marked_M = torch.zeros(n_rows, dtype=torch.bool, device=ids.device)
    marked_M[ids] = True
    return marked_M.nonzero().squeeze(1)
