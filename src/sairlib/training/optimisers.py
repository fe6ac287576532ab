"""Optimisers: those of torch, and Adam for tables of which a step touches few rows."""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from sairlib.models.recommender import Recommender
from sairlib.nn.layers import Table
from sairlib.training.settings import TrainingSettings

RARELY = 16
"""Use RowAdam when a table has over so many times as many rows as a batch looks up (below, it is no faster)."""
ROWS_AT_ONCE = 2**16
"""Rows that are brought up to date at once where all are: the copies stay small beside the table."""


def tables_by_rows(model: Recommender, settings: TrainingSettings, rows_per_batch: float) -> list[Table]:
    """Tables of far more rows than a batch looks up: on CPU a step would spend its time on the others.

    None where every row moves at every step, or the gradient must be known whole.
    """
    if settings.compile or settings.weight_decay or settings.grad_clip:
        return []
    if settings.optimizer == "adagrad" or not follows(settings.betas):
        return []
    tables = [module for module in model.modules() if isinstance(module, Table) and not module.whole]
    return [
        table for table in tables if len(table.weight) > RARELY * rows_per_batch and table.weight.device.type == "cpu"
    ]


def optimisers(model: Recommender, settings: TrainingSettings, tables: list[Table]) -> list[Optimizer]:
    """One for all weights but those of ``tables``, and a RowAdam for these; as many of the two as have any."""
    whole = [p for p in model.parameters() if not any(p is table.weight for table in tables)]
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    made: list[Optimizer] = []
    if whole and settings.optimizer == "adagrad":
        made.append(torch.optim.Adagrad(whole, **common))
    elif whole:
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        made.append(kind(whole, betas=settings.betas, fused=True, **common))
    return [*made, RowAdam(tables, settings.lr, settings.betas)] if tables else made


class RowAdam(Optimizer):
    """Adam (Kingma and Ba, 2015, without weight decay) that catches up on a row when it is next looked up.

    A row without gradient still moves, by its fading momentum. From its last gradient at t0 on, m fades as b1^k and
    v as b2^k, so what it owes after k steps is m / sqrt(v) times the sum over them of c_t (b1 / sqrt(b2))^(t - t0),
    with c_t = lr sqrt(1 - b2^t) / (1 - b1^t). That sum is one number a row; the row itself is read and written when
    ``tables`` are asked for it, before the lookup. Dense Adam's path is followed exactly but for rounding and for
    epsilon, which enters what is owed as it stood at t0. Unlike ``torch.optim.SparseAdam``, nothing is left out.

    ``catch_up()`` brings every row up to date: call it before a table's weight is used as a whole.
    """

    def __init__(self, tables: list[Table], lr: float, betas: tuple[float, float], eps: float = 1e-8) -> None:
        if not follows(betas):
            raise ValueError(f"betas={betas}: what a row owes would grow without end; b1 must be below sqrt(b2)")
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
            table.sparse = True  # its gradient holds the rows that were looked up, and no others
            table.register_forward_pre_hook(self._before_lookup)

    def _before_lookup(self, table: Any, arguments: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():  # without: evaluation, before which all rows were caught up
            self._catch_up(table.weight, arguments[0].reshape(-1))

    def catch_up(self) -> None:
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
        self._now(state, rows)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
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
            self._now(state, rows)

    def _now(self, state: dict[str, Tensor], rows: Tensor) -> None:
        state["seen_at"][rows] = self.param_groups[0]["steps"]
        state["faded"][rows] = 1
        state["owed"][rows] = 0


def follows(betas: tuple[float, float]) -> bool:
    """Whether ``RowAdam`` can: momentum must fade faster than the scale it is divided by."""
    return betas[0] < math.sqrt(betas[1])


def _distinct(ids: Tensor, n_rows: int) -> Tensor:
    """Each id once; by marks in the table's length, which is faster than sorting."""
    marked_M = torch.zeros(n_rows, dtype=torch.bool, device=ids.device)
    marked_M[ids] = True
    return marked_M.nonzero().squeeze(1)
