"""NERLlama3.1: a causal language model copies the sentence and marks the entities in the copy."""
