"""Spans, labels, data sets, batches of sentences."""
