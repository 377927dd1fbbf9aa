"""The engine: its composition, its life cycle and its services.

The servers offer these services.
"""
