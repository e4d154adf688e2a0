"""The training loop, what it records, and a run's folder."""
