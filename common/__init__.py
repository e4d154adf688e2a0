"""What all approaches share: data, base models, losses, the metric, the loop, checkpoints and results."""
