"""Archives of images on a disk: OCI image layouts, and the tar files of docker and podman."""
