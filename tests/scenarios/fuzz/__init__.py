"""Generated input: whatever comes, the engine answers, does not stall, and does not grow.

In the normal run each test takes a few seconds and always tries the same. By hand:
``ENTREPOT_TESTS=long pytest tests/scenarios/fuzz``, which tries others every time.
"""
