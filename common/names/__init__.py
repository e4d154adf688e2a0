"""Knowledge bases: names of entities with their types, and those that are like the phrases of a sentence."""

MANIFEST_FILE = "knowledge.json"
"""What the folder of a knowledge base has when it is whole."""
