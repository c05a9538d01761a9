"""Speed of the operators against eager and compiled PyTorch."""
