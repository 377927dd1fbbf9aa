"""Screens that ask a question or show something over the current screen."""
