"""Source registries: how Entrepot pulls from them. `entrepot.source.client` shows the way in."""
