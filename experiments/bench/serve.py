"""The protocol between the benchmark and a system under test: one JSON object a line, requests on stdin, answers on
stdout.

It uses the standard library only, so that it runs in every peer's environment. The system's own output goes to stderr.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Answer = dict[str, Any]


def serve(make: Callable[[Answer], dict[str, Callable[[], Answer]]]) -> None:
    """Build the system from the settings in the first line, then do what each further line requests, until stdin ends.

    Every answer carries ``seconds``, ``cpu_seconds`` (of all threads) and ``peak_bytes`` (of the process until then).
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    actions: dict[str, Callable[[], Answer]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        start, cpu = time.perf_counter(), time.process_time()
        if actions:
            answer = actions[request["do"]]()
        else:
            actions, answer = make(request), {}
        spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**spent, "peak_bytes": peak, **answer}), file=answers, flush=True)


def ndcg(scores: Any, k: int = 10) -> float:
    """NDCG@k of column 0 against the other columns of ``scores`` (numpy, users x candidates)."""
    import numpy as np

    ranks = (scores[:, 1:] >= scores[:, :1]).sum(1)
    return float(np.where(ranks < k, 1 / np.log2(ranks + 2), 0.0).mean())
