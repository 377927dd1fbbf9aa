"""The cache: manifests and blobs for clients, fills, pulls, and the index in memory."""
