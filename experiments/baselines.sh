#!/usr/bin/env bash
# The systems of the papers' tables on ML-1M, seed 1, as experiments/README.md reports them: one after the other.
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
train gru4rec-ml-1m training.epochs=60 training.eval_every=2 training.patience=20
train gru4rec-plus-ml-1m training.n_negatives=512 training.epochs=20 training.eval_every=2
train caser-ml-1m training.epochs=30 training.eval_every=2 training.patience=8
train attrec-ml-1m training.epochs=20
train attrec-ml-100k training.batch_size=32 training.epochs=60 training.patience=30
train sine-ml-1m training.epochs=280 training.patience=60

train sasrec-ml-1m-softmax

# In two parts: at a constant rate first, then down to 0.
train bert4rec-ml-1m-sair-protocol training.epochs=130 training.eval_every=10 training.patience=40
train bert4rec-ml-1m-sair-protocol resume=true training.epochs=175 training.eval_every=5 training.patience=0 training.schedule=linear
train lightsans-ml-1m-sair-protocol training.epochs=200 training.patience=60
train lightsans-ml-1m-sair-protocol resume=true training.epochs=260 training.patience=0 training.schedule=linear

# SAIR's variants, as long as main-job.sh trains SAIR, and grouped by length as it was there.
train sair-full-ml-1m training.epochs=192 training.length_window=8
train sair-label-ml-1m training.epochs=192 training.length_window=8
