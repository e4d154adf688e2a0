"""Knowledge bases: entity names with their types, and those that resemble the phrases of a sentence."""

MANIFEST_FILE = "knowledge.json"
"""What the folder of a knowledge base has when it is whole."""
