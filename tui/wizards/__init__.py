"""Wizards: a few questions, and nothing is created before the review."""
