"""Tables and figures from result files: ``python -m common.tables``."""
