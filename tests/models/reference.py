"""SASRec and SAIR written from their papers' equations, one user, step and head at a time; other tests use parts.

Slow on purpose, and shares nothing with the library but the names of the weights. ``weights`` is a model's state_dict
as float64 arrays; ``items`` is one user's history, oldest first, without padding. ``options["drop"]`` is called where
dropout applies: a test replaces both by the same function to check the places of dropout.
"""

from math import erf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Weights = dict[str, NDArray[np.float64]]


def softmax(scores: list[float]) -> list[float]:
    powers = [float(np.exp(score - max(scores))) for score in scores]
    return [power / sum(powers) for power in powers]


def layer_norm(x: Vector, weights: Weights, name: str) -> Vector:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: Vector) -> Vector:
    return np.array([value * 0.5 * (1 + erf(value / 2**0.5)) for value in x])


def linear(x: Vector, weights: Weights, name: str) -> Vector:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def attention(xs: list[Vector], weights: Weights, name: str, n_heads: int) -> list[Vector]:
    """Eq. (2) of SASRec, eq. (2) and (5) of SAIR; step t looks at steps 0..t."""
    width = len(xs[0])
    size = width // n_heads
    joint = weights[f"{name}.query_key_value.weight"]
    query, key, value = joint[:width], joint[width : 2 * width], joint[2 * width :]
    out = []
    for t in range(len(xs)):
        heads = []
        for head in range(n_heads):
            rows = slice(head * size, (head + 1) * size)
            q = query[rows] @ xs[t]
            weigh = softmax([float(q @ (key[rows] @ xs[s])) / np.sqrt(size) for s in range(t + 1)])
            heads.append(sum(weigh[s] * (value[rows] @ xs[s]) for s in range(t + 1)))
        joined = np.concatenate(heads)
        projection = weights.get(f"{name}.output.weight")
        out.append(joined if projection is None else projection @ joined)
    return out


def nothing(x: Vector) -> Vector:
    return x


def encode(items: list[int], weights: Weights, options: dict[str, Any], categories: list[list[int]]) -> list[Vector]:
    """SASRec's stack. ``categories``: those of every item, for SAIR's H_cate; [] for none."""
    table, drop = weights["encoder.item_embedding.weight"], options.get("drop", nothing)
    n, width = len(items), table.shape[1]
    xs = []
    for t, item in enumerate(items):
        x = table[item] * (np.sqrt(width) if options.get("scale_items", True) else 1.0)
        if categories:
            x = x + category_vector(item, weights, options, categories)
        if options.get("positional_embedding", True):
            place = t if options.get("positions", "newest") == "oldest" else n - 1 - t
            x = x + weights["encoder.position_embedding.weight"][place]
        xs.append(drop(x))
    pre, residual = options.get("norm", "pre") == "pre", options.get("residual", True)
    for block in range(options["n_blocks"]):
        name = f"encoder.encoder.blocks.{block}"
        for part in ("attention", "feed_forward"):
            norm = f"{name}.{part}_norm"
            inputs = [layer_norm(x, weights, norm) for x in xs] if pre else xs
            if part == "attention":
                changes = attention(inputs, weights, f"{name}.attention", options.get("n_heads", 1))
            else:
                changes = []
                for x in inputs:
                    changes.append(feed_forward(x, weights, f"{name}.feed_forward", drop))
            changes = [drop(change) for change in changes]
            gate = weights.get(f"{name}.{part}_gate.weight")
            if gate is not None:
                changes = [change / (1 + np.exp(-gate @ x)) for change, x in zip(changes, xs, strict=True)]
            xs = [x + change if residual else change for x, change in zip(xs, changes, strict=True)]
            if not pre:
                xs = [layer_norm(x, weights, norm) for x in xs]
    normed = pre and options.get("final_norm", True)
    return [layer_norm(x, weights, "encoder.encoder.final_norm") for x in xs] if normed else xs


def feed_forward(x: Vector, weights: Weights, name: str, drop: Any) -> Vector:
    """Eq. (5) of SASRec, or SwiGLU where there is a third matrix."""
    if f"{name}.third.weight" not in weights:
        inner = np.maximum(linear(x, weights, f"{name}.first"), 0)
        return linear(drop(inner), weights, f"{name}.second")
    first = weights[f"{name}.first.weight"] @ x
    inner = first / (1 + np.exp(-first)) * (weights[f"{name}.third.weight"] @ x)
    return weights[f"{name}.second.weight"] @ drop(inner)


def category_vector(item: int, weights: Weights, options: dict[str, Any], categories: list[list[int]]) -> Vector:
    table = weights["categories.table.weight"]
    vectors = [table[category] for category in categories[item]]
    pooling = options.get("category_pooling", "mean")
    if pooling == "first":
        return vectors[0]
    return sum(vectors) / (len(vectors) if pooling == "mean" else 1)


def sasrec(items: list[int], user: int, weights: Weights, options: dict[str, Any]) -> list[list[float]]:
    """Scores of items 1..M at every step."""
    table = weights["encoder.item_embedding.weight"]
    if not options.get("shared_item_embedding", True):
        table = weights["output_embedding.weight"]
    scores = []
    for state in encode(items, weights, options, []):
        if options.get("user_embedding", False):
            state = state + weights["user_embedding.weight"][user]
        scores.append([float(state @ table[item]) for item in range(1, len(table))])
    return scores


def sair(items: list[int], weights: Weights, options: dict[str, Any], categories: list[list[int]]) -> list[list[float]]:
    """Scores of items 1..M at every step: eq. (1) to (11)."""
    variant, drop = options.get("variant", "sair"), options.get("drop", nothing)
    states = encode(items, weights, options, categories if options.get("use_category", True) else [])
    pool = weights["categories.table.weight"][1:] if variant == "label" else weights["learned_pool_LD"]
    relevance = [np.array([float(state @ interest) for interest in pool]) for state in states]
    if options.get("relevance", "product") == "cosine":
        norms = [np.sqrt(sum(value * value for value in interest)) for interest in pool]
        relevance = [row / np.sqrt(sum(state * state)) / norms for row, state in zip(relevance, states, strict=True)]
    relevance = [row / options.get("temperature", 1.0) for row in relevance]
    interacted = relevance
    if variant != "full" and options.get("use_interaction", True):
        interacted = attention(relevance, weights, "retrieval.interaction", 1)
        if options.get("interaction_residual", False):
            interacted = [a + b for a, b in zip(interacted, relevance, strict=True)]
    table = weights["encoder.item_embedding.weight"]
    scores = []
    for t, state in enumerate(states):
        chosen = list(range(len(pool)))
        if variant != "full":
            chosen = sorted(chosen, key=lambda i: -interacted[t][i])[: options["top_k"]]
        weigh_by = relevance if options.get("weights", "interacted") == "raw" else interacted
        weights_of_chosen = softmax([float(weigh_by[t][i]) for i in chosen])
        fused = state if options.get("aggregator_skip", False) else np.zeros_like(state)
        for slot, interest in enumerate(chosen):
            net = f"aggregator.nets.{slot if options.get('interest_ffn', 'per_slot') == 'per_slot' else 0}"
            inner = drop(linear(pool[interest] + state, weights, f"{net}.first"))
            active = linear(np.maximum(inner, 0), weights, f"{net}.second")
            fused = fused + weights_of_chosen[slot] * layer_norm(active, weights, f"{net}.norm")
        row = []
        for item in range(1, len(table)):
            vector = table[item]
            if options.get("score_with_category", False):
                vector = vector + category_vector(item, weights, options, categories)
            row.append(float(fused @ vector))
        scores.append(row)
    return scores


def decorrelation(pool: NDArray[np.float64]) -> float:
    """L_d = 1/2 (||Z||_F^2 - ||diag Z||^2), Z = 1/D (C - mean)(C - mean)^T, the mean of each row over its entries."""
    width = pool.shape[1]
    centred = [[value - sum(row) / width for value in row] for row in pool.tolist()]
    total = diagonal = 0.0
    for i, a in enumerate(centred):
        for j, b in enumerate(centred):
            z = sum(x * y for x, y in zip(a, b, strict=True)) / width
            total += z * z
            diagonal += z * z if i == j else 0.0
    return 0.5 * (total - diagonal)


def imbalance(interacted: list[Vector], kept: list[list[int]]) -> float:
    """L sum_i f_i P_i of steps, with f_i the share of i among all kept and P_i the mean of softmax(Ca-hat)_i."""
    size, every = len(interacted[0]), [i for row in kept for i in row]
    total = 0.0
    for i in range(size):
        mean = sum(softmax(list(row))[i] for row in interacted) / len(interacted)
        total += every.count(i) / len(every) * mean
    return size * total
