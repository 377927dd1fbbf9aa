"""Settings, directories and the documents of rules and credential sets."""
