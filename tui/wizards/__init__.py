"""Wizards: a few questions, one after the other, and nothing is created before the review."""
