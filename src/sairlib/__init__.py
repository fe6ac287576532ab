"""sairlib: sequential recommendation research in pure PyTorch."""
