"""The shared spine: data, base models, losses, the metric, the loop, checkpoints and results."""
