"""Models of the API as rows, sentences and facts.

Pure: no terminal and no clock; *now* is in seconds since the epoch.
"""
