"""What training, predicting, serving and exporting cost."""
