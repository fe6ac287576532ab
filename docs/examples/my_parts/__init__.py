"""Parts of one's own for sairlib: the examples of docs/extending.md."""
