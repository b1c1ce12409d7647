"""Training: ``python -m train RECIPE --data DIR --out runs/NAME``."""
