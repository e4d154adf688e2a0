"""Full-FT: trains every weight of the GLiNER model; the upper bound."""
