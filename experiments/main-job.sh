#!/usr/bin/env bash
# The runs behind the first table of experiments/README.md. Needs the data sets named in data/README.md under SAIRLIB_DATA.
# 7 hours on one CPU core, by the sum of the parts as they were run.
set -euo pipefail
train="python -m sairlib.train training.length_window=8"  # what the default was when they were run; now 32

$train experiment=sasrec-table3/sasrec-ml-1m-sasrec run_dir=outputs/sasrec-ml-1m-s1
$train experiment=sasrec-table3/sasrec-ml-1m-sasrec model.norm=post run_dir=outputs/sasrec-ml-1m-post-s1
$train experiment=sasrec-table3/sasrec-amazon-games training.eval_every=10 run_dir=outputs/sasrec-games-s1
for seed in 1 2 3; do
    seeded="$train seed=$seed"
    $seeded experiment=sair-table2/sasrec-ml-1m training.epochs=240 run_dir=outputs/sasrec-sair-protocol-s$seed
    $seeded experiment=sair-table2/sair-ml-1m training.epochs=192 run_dir=outputs/sair-ml-1m-s$seed
    $seeded experiment=sair-table2/sair-ml-1m model.weights=raw training.epochs=192 run_dir=outputs/sair-raw-ml-1m-s$seed
done
$train experiment=sair-table2/sair-ml-1m seed=1 training.epochs=240 run_dir=outputs/sair-ml-1m-240-epochs-s1
for run in outputs/*-s[0-9]; do
    python experiments/results.py "$(basename "$run")=$run"
done
