"""LoRA and related methods: small additions to the encoders' layers, trained, and merged into them on export."""
