"""``grad predict``: defects found in images, folders, videos and cameras."""
