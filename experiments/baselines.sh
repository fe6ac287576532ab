#!/usr/bin/env bash
# The systems of the papers' tables on ml-1m-sasrec, seed 1, as experiments/README.md reports them: one after the other.
# Epochs are cut to what fits two busy CPU cores; where the best epoch is the last, the figure is a lower bound.
#   SAIRLIB_DATA=... experiments/baselines.sh [folder for the runs]
set -euo pipefail
runs=${1:-outputs/baselines}
train() { python -m sairlib.train experiment="$1" run_dir="$runs/$1-s1" seed=1 "${@:2}"; }

train poprec-ml-1m
train bpr-mf-ml-1m training.epochs=200
train fmc-ml-1m training.epochs=200
train fpmc-ml-1m training.epochs=300
train transrec-ml-1m training.epochs=200
train attrec-ml-1m training.epochs=20
train caser-ml-1m training.epochs=20
train gru4rec-ml-1m training.epochs=30
train gru4rec-plus-ml-1m training.n_negatives=128 training.epochs=40
