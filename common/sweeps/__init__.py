"""Optuna sweeps: search spaces, trials, storages."""
