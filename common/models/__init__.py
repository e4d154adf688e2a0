"""The building blocks of approaches: base models, text and span models, prompts, losses, stored features."""
