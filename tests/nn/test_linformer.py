"""Linformer's attention: the plain one leaks, ours does not and equals its formula, one query at a time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_data import history, make_split
from torch import Tensor

from sairlib import build
from sairlib.errors import UserError
from sairlib.models.recommender import StepModel, one_tensor
from sairlib.nn.attention import CausalAttention
from sairlib.nn.linformer import LinformerAttention

D = 6
Mix = Callable[[Tensor], Tensor]


def make_attention(n_heads: int = 2, block: int = 4, k: int = 2) -> LinformerAttention:
    torch.manual_seed(0)
    return LinformerAttention(D, n_heads, block, k).double()


def sequences(n_steps: int, batch: int = 3) -> Tensor:
    return torch.randn(batch, n_steps, D, dtype=torch.float64, generator=torch.Generator().manual_seed(n_steps))


def plain(states: NDArray[np.float64], attention: LinformerAttention) -> list[NDArray[np.float64]]:
    """One sequence, one query and one head at a time."""
    weights = {name: value.numpy() for name, value in attention.state_dict().items()}
    joint, E, F = (weights[name] for name in ("query_key_value.weight", "project_keys", "project_values"))
    size, T = D // attention.n_heads, attention.block
    outputs = []
    for t in range(len(states)):
        begins, heads = t // T * T, []
        for head in range(attention.n_heads):
            query, key, value = (
                states @ joint[part * D + head * size : part * D + (head + 1) * size].T for part in range(3)
            )
            keys, values = list(key[begins : t + 1]), list(value[begins : t + 1])
            for start in range(0, begins, T):
                keys += list(E @ key[start : start + T])
                values += list(F @ value[start : start + T])
            powers = [np.exp(float(query[t] @ other) / np.sqrt(size)) for other in keys]
            heads.append(sum(power / sum(powers) * other for power, other in zip(powers, values, strict=True)))
        outputs.append(np.concatenate(heads))
    return outputs


@pytest.mark.parametrize("n_steps", [1, 3, 4, 5, 8, 15, 21])
@pytest.mark.parametrize(("n_heads", "block", "k"), [(1, 4, 2), (2, 4, 4), (3, 1, 1), (2, 5, 1)])
def test_equals_its_formula(n_steps: int, n_heads: int, block: int, k: int) -> None:
    attention, states_BND = make_attention(n_heads, block, k), sequences(n_steps)
    with torch.no_grad():
        actual_BND = attention(states_BND).numpy()
        last_BD = attention.at_steps(states_BND, torch.full((3,), n_steps - 1)).numpy()
    for row in range(3):
        expected = plain(states_BND[row].numpy(), attention)
        np.testing.assert_allclose(actual_BND[row], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(last_BD[row], expected[-1], rtol=1e-10, atol=1e-12)


def linformer(attention: LinformerAttention, n_steps: int) -> Mix:
    """The paper's: the keys and values of all steps are projected, E and F having a column for each."""
    generator = torch.Generator().manual_seed(0)
    E, F = torch.randn(2, 3, n_steps, dtype=torch.float64, generator=generator)

    def mix(states_BND: Tensor) -> Tensor:
        query, key, value = attention.query_key_value(states_BND).chunk(3, -1)
        mixed_BND: Tensor = (query @ (E @ key).mT / D**0.5).softmax(-1) @ (F @ value)
        return mixed_BND

    return mix


def steps_that_see_later_ones(mix: Mix, n_steps: int) -> list[int]:
    """By gradient, from each step to all after it; every step has to see itself."""
    states_BND = sequences(n_steps).requires_grad_()
    mixed_BND, seeing = mix(states_BND), []
    for t in range(n_steps):
        (gradient_BND,) = torch.autograd.grad(mixed_BND[:, t].sum(), states_BND, retain_graph=True)
        assert gradient_BND[:, : t + 1].any(-1).all(), "a step that sees too little"
        if gradient_BND[:, t + 1 :].any():
            seeing.append(t)
    return seeing


def test_plain_linformer_sees_the_future_and_this_one_does_not() -> None:
    attention = make_attention(n_heads=1)
    assert steps_that_see_later_ones(linformer(attention, 14), 14) == list(range(13))
    assert steps_that_see_later_ones(attention, 14) == []


def test_a_sequence_of_one_block_has_the_full_attention() -> None:
    attention, full = make_attention(block=8), CausalAttention(D, 2).double()
    full.load_state_dict({"query_key_value.weight": attention.query_key_value.weight})
    torch.testing.assert_close(attention(sequences(8)), full(sequences(8)), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(attention(sequences(9))[:, 8], full(sequences(9))[:, 8])


def test_what_follows_a_sequence_changes_nothing() -> None:
    attention, states_BND = make_attention(), sequences(19)
    for n_steps in (1, 4, 7, 12):
        torch.testing.assert_close(attention(states_BND)[:, :n_steps], attention(states_BND[:, :n_steps]))


def test_weights_grow_with_the_blocks_not_with_the_square_of_the_steps() -> None:
    def kept(n_steps: int) -> int:
        sizes: list[int] = []
        attention = LinformerAttention(D, 1, block=32, k=1).double()

        def pack(tensor: Tensor) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            attention(sequences(n_steps, 1)).sum()
        return max(sizes)

    assert kept(1024) == 1024 * (32 + 1024 // 32 - 1) < 1024**2 / 16


@pytest.mark.parametrize(
    "words", [["model=sasrec", "model/attention=linformer"], ["model=sair", "model/encoder=linformer"]], ids=str
)
def test_models_over_it_see_no_future(words: list[str]) -> None:
    """In training mode, dropout and all: from each state to the vectors of later items."""
    part = "attention" if "model=sasrec" in words else "encoder.attention"
    config = build.compose([*words, f"model.{part}.block=4", f"model.{part}.k=2", "max_len=14", "model.dropout=0.1"])
    split = make_split([list(range(1, 13)), list(range(12, 0, -1))], 12)
    model = build.model(config, split, torch.device("cpu"))
    assert isinstance(model, StepModel) and any(isinstance(part, LinformerAttention) for part in model.modules())
    vectors: list[Tensor] = []
    table = model.encoder.item_embedding
    assert isinstance(table, torch.nn.Embedding)
    table.register_forward_hook(lambda module, given, vectors_BND: vectors.append(vectors_BND))
    items_BN = torch.stack([torch.arange(14) % 12 + 1, (torch.arange(14) * 5) % 12 + 1])
    states_BND = one_tensor(model.train().encode(history(items_BN)))
    for t in range(14):
        (gradient_BND,) = torch.autograd.grad(states_BND[:, t].square().sum(), vectors[:1], retain_graph=True)
        assert gradient_BND[:, t].any() and gradient_BND[:, 0].any() and not gradient_BND[:, t + 1 :].any()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model/attention=linformer", "model.attention.k=33"], "k=33: must be between 1 and block=32"),
        (["model/attention=linformer", "model.attention.k=0"], "k=0: must be between 1 and block=32"),
        (["model/attention=linformer", "model.attention.block=0"], "block=0: must be 1 or more"),
        (["model/attention=linformer", "model.n_heads=3"], "n_heads=3 does not divide the width 50"),
        (["model/attention=linformer", "model.attention_dropout=0.1"], "attention_dropout and output_projection are"),
        (["model/attention=linformer", "model.output_projection=true"], "attention_dropout and output_projection are"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build.model(build.compose(["model=sasrec", *words]), make_split([[1, 2, 3, 4]], 4), torch.device("cpu"))
    assert "\n" not in str(caught.value)
