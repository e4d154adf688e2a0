"""Speed and memory beside GLiNER's own, and how fast the commands answer: ``python -m common.benchmark``."""
