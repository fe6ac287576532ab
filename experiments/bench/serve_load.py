"""Latency of a server of recommendations, by a real client over the network: keep-alive connections that ask without a
pause. The server must be of data whose users are numbered from 1, such as ML-1M. It uses the standard library only.

    python -m sairlib.serve run=DIR port=8000
    python experiments/bench/serve_load.py 127.0.0.1:8000 [--concurrent 50] [--seconds 10] [--interests]

Half of the requests are GET for a user, half POST a history of 20 items. It prints one JSON object; times are in ms.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from typing import Any


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    """Status and body of one request."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(head.split(b" ", 2)[1]), await reader.readexactly(int(length.split(b":")[1]))


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def post(target: str, value: Any) -> bytes:
    body = json.dumps(value).encode()
    return f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def measure(host: str, port: int, concurrent: int, seconds: float, interests: bool) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection(host, port)
    about = json.loads((await ask(reader, writer, get("/health")))[1])
    items = [one["item"] for one in json.loads((await ask(reader, writer, get("/items?limit=100")))[1])["items"]]
    draw = random.Random(0)
    flag = "&interests=true" if interests else ""
    requests = [get(f"/recommend?user={draw.randint(1, about['users'])}{flag}") for _ in range(500)]
    bodies = [{"history": draw.sample(items, 20), "interests": interests} for _ in range(500)]
    requests += [post("/recommend", body) for body in bodies]
    taken: list[float] = []
    statuses: set[int] = set()
    start = time.perf_counter()
    begin, end = start + 1, start + 1 + seconds  # the first second is not counted

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while (asked := time.perf_counter()) < end:
            status, _ = await ask(reader, writer, draw.choice(requests))
            statuses.add(status)
            if asked >= begin:
                taken.append(1000 * (time.perf_counter() - asked))
        writer.close()

    load = os.getloadavg()[0]
    await asyncio.gather(*(client() for _ in range(concurrent)))
    assert statuses == {200}, statuses
    cuts = statistics.quantiles(taken, n=100)
    return {
        "model": about["model"],
        "concurrent": concurrent,
        "requests": len(taken),
        "per_second": round(len(taken) / seconds),
        "p50": round(cuts[49], 1),
        "p99": round(cuts[98], 1),
        "load_before": round(load, 1),
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("address")
    options.add_argument("--concurrent", type=int, default=50)
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--interests", action="store_true")
    given = options.parse_args()
    host, _, port = given.address.rpartition(":")
    print(json.dumps(asyncio.run(measure(host, int(port), given.concurrent, given.seconds, given.interests))))


if __name__ == "__main__":
    main()
