#!/usr/bin/env bash
# The systems of the papers' tables on ML-1M, seed 1, as experiments/README.md reports them: one after the other.
# Epochs are cut to what fits two busy CPU cores; where the best epoch is the last, the figure is a lower bound.
#   SAIRLIB_DATA=... experiments/baselines.sh [folder for the runs]
set -euo pipefail
runs=${1:-outputs/baselines}
# The record's name (without seed), the preset, and what differs from it.
train() { python -m sairlib.train experiment="$2" run_dir="$runs/$1-s1" seed=1 "${@:3}"; }

train poprec-ml-1m sasrec-table3/poprec-ml-1m-sasrec
train poprec-games sasrec-table3/poprec-amazon-games
train bpr-mf-ml-1m sasrec-table3/bpr-mf-ml-1m-sasrec training.epochs=200
train fmc-ml-1m sasrec-table3/fmc-ml-1m-sasrec training.epochs=200
train fpmc-ml-1m sasrec-table3/fpmc-ml-1m-sasrec training.epochs=300
train transrec-ml-1m sasrec-table3/transrec-ml-1m-sasrec training.epochs=200
train gru4rec-ml-1m sasrec-table3/gru4rec-ml-1m-sasrec training.epochs=60 training.eval_every=2 training.patience=20
train gru4rec-plus-ml-1m sasrec-table3/gru4rec-plus-ml-1m-sasrec negatives.n=512 training.epochs=20 training.eval_every=2
train caser-ml-1m sasrec-table3/caser-ml-1m-sasrec training.epochs=30 training.eval_every=2 training.patience=8
train attrec-ml-1m sasrec-protocol/attrec-ml-1m-sasrec training.epochs=20
train attrec-ml-100k attrec-paper/attrec-ml-100k training.batch_size=32 training.epochs=60 training.patience=30
train sine-ml-1m-pairs sasrec-protocol/sine-ml-1m-sasrec training.epochs=280 training.patience=60

train sasrec-ml-1m-softmax full-ranking/sasrec-softmax-ml-1m-sasrec

falling="training.patience=0 training.schedule=linear"
train bert4rec-table2 sair-table2/bert4rec-ml-1m training.epochs=110 training.eval_every=5 $falling
train lightsans-table2 sair-table2/lightsans-ml-1m training.epochs=160 training.eval_every=10 $falling

# SAIR's variants, as long as main-job.sh trains SAIR, and grouped by length as it was there.
train sair-full-ml-1m sair-table2/sair-full-ml-1m training.epochs=192 training.length_window=8
train sair-label-ml-1m sair-table2/sair-label-ml-1m training.epochs=192 training.length_window=8
