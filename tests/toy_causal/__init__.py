"""A test's approach that is no GLiNER: a frozen causal language model with a linear head that tags words."""
