"""Zero-shot: GLiNER as published, nothing trained."""
