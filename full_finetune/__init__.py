"""Full-FT: every weight of the GLiNER model is trained; the upper bound."""
