"""From pictures to feature maps: the frozen backbone, and what it computed, kept on disk."""
