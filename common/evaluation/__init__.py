"""Prediction of a split, the metric, and result files."""
