"""Textual widgets that know nothing of caches: they could serve another program."""
