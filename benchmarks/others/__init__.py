"""Other people's methods on the same images, and ours beside them."""
