"""GRU4Rec's authors' PyTorch code under test. Settings: ``data`` (see harness.py), ``code`` (a folder with
``gru4rec_pytorch.py``), ``n``, ``d``, ``batch_size``, ``negatives``, ``power``, ``part`` of the sessions, ``threads``.

Its own fit() trains it; it prints how long the epoch took.
"""

import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import torch
from serve import Answer, serve


def make(settings: dict[str, Any]) -> dict[str, Any]:
    sys.path.insert(0, settings["code"])
    from gru4rec_pytorch import GRU4Rec

    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    exchange = np.load(settings["data"])
    frame = pd.DataFrame({"SessionId": exchange["users"], "ItemId": exchange["items"]})
    frame["Time"] = np.arange(len(frame))
    frame = frame.groupby("SessionId").tail(settings["n"] + 1)  # n steps, each with its next item
    sessions = frame.SessionId.unique()
    frame = frame[frame.SessionId.isin(sessions[:: round(1 / settings["part"])])].reset_index(drop=True)
    model = GRU4Rec(
        layers=[settings["d"]],
        loss="bpr-max",
        batch_size=settings["batch_size"],
        learning_rate=0.05,
        n_sample=settings["negatives"],
        sample_alpha=settings["power"],
        constrained_embedding=True,
        n_epochs=1,
        device=torch.device("cpu"),
    )
    n_steps = len(frame) - frame.SessionId.nunique()

    def tenth() -> Answer:
        with redirect_stdout(StringIO()) as printed:
            # Its compatibility mode, other first weights, needs an older version of PyTorch.
            model.fit(frame, sample_cache_max_size=1_000_000, compatibility_mode=False)
        seconds = float(re.findall(r"\(([\d.]+)s\)", printed.getvalue())[-1])
        return {"seconds": seconds, "tokens_per_second": n_steps / seconds}

    return {"tenth": tenth}


if __name__ == "__main__":
    serve(make)
