"""What is trained: settings that several rows share."""

# Single settings instead of a protocol, so that commits older than the protocols can be timed too.
ML_1M = ("dataset=ml-1m-sasrec", "model=sasrec", "max_len=200", "model.d=64")
GAMES = ("dataset=amazon-games", "model=sasrec", "max_len=50", "model.d=64")
BATCHES = ("training.batch_size=256", "training.betas=[0.9,0.999]")
PROTOCOL = ("dataset=ml-1m", *BATCHES, "max_len=150", "model.d=64")
ML_20M = ("dataset=ml-20m", *BATCHES, "max_len=150", "model.d=64", "model=sasrec")
MILLION = ("dataset=ml-20m", "max_len=7", "model=sasrec", "model.d=64")
SESSIONS = (
    *("dataset=ml-1m-sasrec", "max_len=200", "model=gru4rec-plus", "objective=session_parallel"),
    *("negatives=popular", "negatives.n=2048", "training.batch_size=128"),
)
