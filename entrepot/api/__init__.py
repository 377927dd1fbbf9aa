"""What programs use that talk to a running engine: its client, the models and the transport below."""
