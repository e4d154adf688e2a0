"""SP-Base: a trainable table of label embeddings, initialised from descriptions; both encoders stay frozen."""
