"""Every plan under every ceiling of every CostPolicy: what is bound, what still fits, and who gives way."""
