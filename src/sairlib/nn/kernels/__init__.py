"""Kernels: functions that have a fast version on CPU and choose between it and a plain version.

    causal_attention      (attention.py)  softmax(Q K^T / sqrt(D)) V, each step over itself and earlier steps
    rows                  (lookup.py)     rows of a table, by id
    squared_distances     (distances.py)  of states and items
    recent                (windows.py)    the last few vectors before every step
    dropout               (dropout.py)    random zeros
    costs_of_products     (products.py)   any cost of scores of all items
    softmax_of_products   (softmax.py)    cost of a target among all items
    bpr_max               (bpr_max.py)    cost of a target against its strongest negatives
    in_parts              (parts.py)      any cost, in parts that fit into the cache or the memory

The plain version ``plain_...``, a line or two of PyTorch, defines what the function computes. The fast version has the
same values and gradients except for rounding (dropout: the same distribution). It runs only on CPU, and not under
``torch.compile``. To find out whether a kernel causes a problem, set SAIRLIB_PLAIN_KERNELS=1 in the environment
(``switch.py``): then only plain versions run.
"""
