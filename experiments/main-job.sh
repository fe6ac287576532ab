#!/usr/bin/env bash
# Every run behind experiments/README.md. Needs the data sets named in data/README.md under SAIRLIB_DATA.
# On one CPU core the first took 28 minutes, the second 7, SAIR 37 for 192 epochs.
set -euo pipefail
train="python -m sairlib.train"

$train experiment=sasrec-ml-1m training.epochs=200 run_dir=outputs/sasrec-ml-1m-s1
$train experiment=sasrec-games training.epochs=120 training.eval_every=10 run_dir=outputs/sasrec-games-s1
$train experiment=sasrec-games seed=2 training.epochs=160 training.eval_every=20 run_dir=outputs/sasrec-games-s2
for seed in 1 2 3; do
    $train experiment=sair-ml-1m seed=$seed training.epochs=240 run_dir=outputs/sair-ml-1m-s$seed
    $train experiment=sair-ml-1m model.weights=raw seed=$seed training.epochs=240 run_dir=outputs/sair-raw-ml-1m-s$seed
    $train experiment=sasrec-ml-1m-sair-protocol seed=$seed training.epochs=240 run_dir=outputs/sasrec-sair-protocol-s$seed
done
for run in outputs/*-s[0-9]; do
    python experiments/record.py "$(basename "$run")=$run"
done
