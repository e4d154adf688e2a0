"""The whole comparison, cell by cell: ``python -m common.study``."""
