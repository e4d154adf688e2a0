"""SP-Bi: soft prompts injected into the label branch of a frozen bi-encoder."""
