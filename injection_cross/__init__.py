"""SP-Cross: soft prompts injected into the text sequence of a frozen cross-encoder."""
