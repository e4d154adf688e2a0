"""The loop, what it records, and the folder of a run."""
