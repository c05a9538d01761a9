"""Other methods, written from their papers, on the same features and with the same loop."""
