"""What is kept: blobs, and the catalog of repositories, tags and manifests."""
