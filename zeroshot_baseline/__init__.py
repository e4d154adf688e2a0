"""Zero-shot: GLiNER as published, without training."""
