"""From score maps to verdicts: anomaly maps, thresholds, metrics."""
