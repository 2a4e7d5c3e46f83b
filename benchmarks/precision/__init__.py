"""What precision costs a picture, and what calibration and budgets save of it."""
