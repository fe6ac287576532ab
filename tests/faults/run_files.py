"""Files of run directories, other than checkpoints, that are damaged or gone: read as valid and equal, or refused."""

import io
import json
import os
import random
import shutil
from contextlib import closing, redirect_stdout
from pathlib import Path

from damage import damaged, finished, stored, survived
from fault import LostError, fault

import sairlib
from sairlib.errors import one_line
from sairlib.run.log import RunLog
from sairlib.run.report import read_ranks
from sairlib.stored import words_of

LINES = (
    *(b"", b"{}", b"[1]", b"nothing", b"\xff\xfe\xfa", b'{"epoch": ', b'{"epoch": NaN}', b'{"epoch": "1"}', b"\0" * 50),
    *(b'{"epoch": 1e999}', b'{"epoch": -1}', b"[" * 20_000, b'{"epoch": ' + b"9" * 5000 + b"}", b'{"epoch": [1]}'),
)


@fault("the record of a run that goes on is damaged", tries=100)
def record_damaged(place: Path, rng: random.Random) -> None:
    path = place / "metrics.jsonl"
    whole = (stored() / "metrics.jsonl").read_bytes()
    lines = whole.splitlines()
    what = "lines"
    if rng.random() < 0.5:
        what, content = damaged(whole, rng)
    else:
        for _ in range(rng.randrange(1, 5)):
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
        content = b"\n".join(lines) + rng.choice((b"\n", b""))
    path.write_bytes(content)
    with survived(what), redirect_stdout(io.StringIO()), closing(RunLog(place, 1, 3)) as log:
        log.record(2, 6, train={"loss": 0.5})
    for line in path.read_bytes().splitlines():
        if not isinstance(json.loads(line)["epoch"], int):
            raise LostError(f"{what}: {line!r} was kept")
    kept = set(path.read_bytes().splitlines())
    if what == "lines" and not set(whole.splitlines()) <= kept:
        raise LostError(f"{what}: a good line was dropped")


@fault("the ranks of a run are damaged", tries=100)
def ranks_damaged(place: Path, rng: random.Random) -> None:
    whole = (finished() / "ranks.npz").read_bytes()
    what, content = damaged(whole, rng)
    (place / "ranks.npz").write_bytes(content)
    users, ranks = read_ranks(finished() / "ranks.npz")
    with survived(what):
        others, by_ranking = read_ranks(place / "ranks.npz")
        equal = others.tolist() == users.tolist() and by_ranking.keys() == ranks.keys()
        for name in ranks if equal else ():
            equal &= by_ranking[name].better_E.tolist() == ranks[name].better_E.tolist()
            equal &= by_ranking[name].tied_E.tolist() == ranks[name].tied_E.tolist()
        if not equal:
            raise LostError(f"{what}: other ranks were taken")


@fault("a file of a finished run is damaged or gone", tries=100)
def run_damaged(place: Path, rng: random.Random) -> None:
    run = place / "run"
    shutil.copytree(finished(), run)
    name = rng.choice(("config.yaml", "config.yaml", "config.yaml", "best.pt", ".hydra/overrides.yaml"))
    kind = rng.choice(("damaged", "damaged", "damaged", "gone", "folder", "fifo", "link"))
    path, what = run / name, f"{name} {kind} "
    whole = path.read_bytes()
    if kind == "damaged":
        more, content = damaged(whole, rng)
        what += more
        path.write_bytes(content)
    else:
        path.unlink()
        make = {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(path)}
        make.get(kind, lambda: None)()
    with survived(what, one_line), redirect_stdout(io.StringIO()):
        if name.startswith(".hydra"):
            words_of(run)
        else:
            test = sairlib.load(run, device="cpu").test()
            if name == "best.pt" and test != json.loads((run / "test.json").read_text()):
                raise LostError(f"{what}: other figures came out")
