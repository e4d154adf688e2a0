"""SP-GLiNER: an in-place transform of label token embeddings, trained together with GLiNER's span head."""
