"""Kernels: calculations that have a fast way on CPU, each a plain function that chooses between two ways.

    causal_attention      (attention.py)  softmax(Q K^T / sqrt(D)) V, each step over itself and what came before
    rows                  (lookup.py)     rows of a table, by id
    squared_distances     (distances.py)  of states and items
    recent                (windows.py)    the last few vectors before every step
    dropout               (dropout.py)    zeros at random
    softmax_of_products   (softmax.py)    what a target costs among all items
    in_parts              (parts.py)      any cost, by parts that fit into the cache or the memory

Beside each stands its plain version, ``plain_...``: a line or two of PyTorch, which is what the function means. The
fast version gives the same values and gradients but for rounding (dropout: the same distribution). It is used on CPU
alone, not under ``torch.compile``, and not while ``switch.py`` forbids it: SAIRLIB_PLAIN_KERNELS=1 in the environment
runs the plain versions everywhere, to find out whether a kernel is to blame.
"""
