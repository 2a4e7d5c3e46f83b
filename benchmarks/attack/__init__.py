"""Hostile and unlucky input by the hundred thousand: nothing is lost, and nothing wrong is read in silence."""
