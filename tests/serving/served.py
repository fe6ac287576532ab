"""Tiny runs to be served, untrained but with weights that differ, and asking their application without a network."""

import asyncio
import json
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from sairlib import build
from sairlib.batch import PAD
from sairlib.data.dataset import index
from sairlib.data.ids import text_array
from sairlib.data.interactions import CATEGORY, ITEM, TIMESTAMP, TITLE, USER, Interactions
from sairlib.data.sequences import SequenceStore
from sairlib.data.split import Split, leave_one_out
from sairlib.evaluation.evaluator import Evaluator
from sairlib.evaluation.rankings import EvaluationSettings
from sairlib.run.finished import Run
from sairlib.serving.answers import Answers
from sairlib.serving.app import App

MAX_LEN, M = 6, 24
CPU = torch.device("cpu")
HOSTILE = "<img src=x onerror=document.title='broken'>"


@cache
def split(titles: bool) -> Split:
    """9 users with 5 to 12 of 24 items and times, two genres; item 7 has a hostile title. Without titles: ids are text,
    and there are no genres."""
    rng = np.random.default_rng(0)
    actions = [(user, item) for user in range(9) for item in rng.permutation(M)[: 5 + user % 8].tolist()]
    actions += [(9, item) for item in range(M)]
    frame = pd.DataFrame(np.array(actions), columns=[USER, ITEM])
    frame[TIMESTAMP] = rng.integers(1, 1000, len(frame)).cumsum()
    if not titles:
        ids = text_array(sorted(f"sku-{number}" for number in range(M)))
        return leave_one_out(index(Interactions(frame, "made up", item_ids=ids)))
    genres = pd.DataFrame([(item, f"genre {item % 2}") for item in range(M)], columns=[ITEM, CATEGORY])
    names = [HOSTILE if item == 7 else f"The film of {1950 + item}, part {'xyz'[item % 3]}" for item in range(M)]
    table = pd.DataFrame({ITEM: range(M), TITLE: names})
    return leave_one_out(index(Interactions(frame, "made up", genres, table)))


@cache
def run_of(model: str, titles: bool = True) -> Run:
    data, words = split(titles), ["model.d=8"] if model != "poprec" else []
    small = ["interests.n_interests=5", "interests.top_k=2"] if model == "sair" else []
    torch.manual_seed(0)
    made = build.model(build.compose([f"model={model}", f"max_len={MAX_LEN}", *words, *small]), data, CPU).eval()
    store = SequenceStore(data, MAX_LEN, CPU)
    made.prepare(store.counts_M, store.train_window(store.first_rows(4))[0])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for module in made.modules():
            if isinstance(module, torch.nn.Embedding) and module.padding_idx == PAD:
                module.weight[PAD] = 0
    settings = EvaluationSettings(n_candidates=2, ks=(1,), batch_size=4)
    return Run({}, data, store, made, Evaluator(data, store, settings), 1)


@cache
def app_of(model: str, titles: bool = True) -> App:
    return App(Answers(run_of(model, titles)))


async def reply(app: App, method: str, target: str, *body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request, whose own body comes in these pieces."""
    path, _, query = target.partition("?")
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
    pieces, sent = list(body or [b""]), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent)


def ask(app: App, target: str, body: object = None, method: str | None = None) -> tuple[int, Any]:
    """Status and JSON; ``body`` is JSON too, or bytes as they are."""
    sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    status, _, got = asyncio.run(reply(app, method or ("GET" if body is None else "POST"), target, sent))
    return status, json.loads(got)
