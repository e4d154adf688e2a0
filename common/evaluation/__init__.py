"""Predictions for a split, the metric, and result files."""
