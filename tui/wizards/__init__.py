"""Wizards: a few questions, one after the other, and nothing is made before the review."""
