"""``grad check``: a folder of images, looked at before anything is trained."""
