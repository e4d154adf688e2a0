"""LDSA: label descriptions as semantic anchors; the label encoder and its projection are trained on token classes."""
