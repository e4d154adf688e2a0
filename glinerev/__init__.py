"""SP-GLiNER: an in-place transform of the label tokens' embeddings, trained with GLiNER's span head."""
