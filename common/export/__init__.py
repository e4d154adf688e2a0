"""Exports a trained checkpoint as a plain GLiNER folder: weights, model card, ONNX graph, upload to the hub."""
