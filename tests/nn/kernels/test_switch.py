"""Fast kernels run on CPU only, and never while the switch turns them off."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_calls import CALLS, our_functions
from torch import Tensor

from sairlib.nn.kernels import parts
from sairlib.nn.kernels.dropout import dropout, plain_dropout
from sairlib.nn.kernels.switch import allowed, plain_kernels

GOLDEN = str(Path(__file__).resolve().parents[2] / "golden")
CASES = ("sasrec", "sasrec, softmax", "attrec", "model=sasrec loss=bpr_max negatives.n=4")


@pytest.mark.parametrize("name", CALLS)
def test_the_switch_gives_the_plain_version(name: str) -> None:
    torch.manual_seed(0)
    call = CALLS[name](5, 3)
    arguments, _ = call.on("cpu")
    assert our_functions(call.fast(*arguments)) == {call.function}
    with plain_kernels():
        result = call.fast(*arguments)
        assert not our_functions(result) and torch.equal(result, call.plain(*arguments))
    assert our_functions(call.fast(*arguments)) == {call.function}


@pytest.mark.parametrize("name", CALLS)
def test_no_autograd_function_of_ours_runs_on_another_device(name: str) -> None:
    call = CALLS[name](5, 3)
    arguments, _ = call.on("meta")
    result = call.fast(*arguments)
    assert result.device.type == "meta" and result.requires_grad and not our_functions(result)


@pytest.mark.parametrize("name", CALLS)
def test_no_autograd_function_of_ours_runs_while_torch_compiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = CALLS[name](5, 3)
    arguments, _ = call.on("cpu")
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not our_functions(call.fast(*arguments))


def test_dropout_is_pytorchs_own_under_the_switch() -> None:
    x = torch.ones(1000)

    def seeded(function: Callable[[Tensor, float], Tensor]) -> Tensor:
        torch.manual_seed(0)
        return function(x, 0.5)

    expected = seeded(plain_dropout)
    assert not torch.equal(seeded(dropout), expected)
    with plain_kernels():
        assert torch.equal(seeded(dropout), expected)


def test_costs_are_computed_whole_under_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "SCORES_IN_CACHE", 1)
    sizes, rows = [], torch.randn(70, 1)

    def cost(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return rows

    has_target = torch.arange(70) != 2
    assert parts.in_parts(cost, 1, has_target, rows)[2] == 0 and sizes == [32, 32, 5]
    with plain_kernels():
        assert torch.equal(parts.in_parts(cost, 1, has_target, rows), rows) and sizes[3:] == [70]


def test_the_switch_is_put_back_after_an_error() -> None:
    def fail() -> None:
        with plain_kernels():
            assert not allowed()
            raise KeyError

    assert allowed()
    with pytest.raises(KeyError):
        fail()
    assert allowed()


PROGRAM = """
import json, sys
import torch
from golden import CASES, golden

from sairlib.nn.kernels import attention, bpr_max, distances, lookup, products, windows  # define the autograd functions

applied = set()
for kind in torch.autograd.Function.__subclasses__():
    if kind.__module__.startswith("sairlib."):
        def apply(*arguments, kind=kind, way=kind.apply):
            applied.add(kind.__name__)
            return way(*arguments)
        kind.apply = apply
losses = {case: golden((*CASES.get(case, case.split()), "model.dropout=0.0"))["losses"] for case in sys.argv[1:]}
print(json.dumps({"losses": losses, "applied": sorted(applied)}))
"""


@pytest.fixture(scope="module")
def golden_runs() -> Callable[[str], dict[str, Any]]:
    @cache
    def run(plain: str) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([GOLDEN, *sys.path]), "SAIRLIB_PLAIN_KERNELS": plain}
        command = [sys.executable, "-c", PROGRAM, *CASES]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert finished.returncode == 0, finished.stderr
        output: dict[str, Any] = json.loads(finished.stdout)
        return output

    return run


def test_a_run_uses_every_fast_kernel(golden_runs: Callable[[str], dict[str, Any]]) -> None:
    assert golden_runs("0")["applied"] == sorted({CALLS[name](1, 1).function for name in CALLS})


def test_with_the_environment_s_switch_a_run_uses_none_and_costs_the_same(
    golden_runs: Callable[[str], dict[str, Any]],
) -> None:
    plain, fast = golden_runs("1"), golden_runs("0")
    assert plain["applied"] == []
    for case in CASES:
        assert plain["losses"][case] == pytest.approx(fast["losses"][case], rel=1e-4), case
