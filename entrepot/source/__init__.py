"""Source registries: start reading at `entrepot.source.client`."""
