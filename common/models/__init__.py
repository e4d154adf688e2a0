"""What approaches are built from: base models, text and span models, prompts, losses, stored features."""
