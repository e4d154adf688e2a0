"""LoRA and its relatives: small additions to the encoders' layers, trained and merged into them on export."""
