"""How a model's network is trained: the loop, its steps and their state, and scores by folds."""
