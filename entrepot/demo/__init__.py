"""The source registry of ``entrepot demo``.

It serves generated images without the internet.
"""

DEMO_IMAGES = (
    "library/nginx:1.27",
    "library/postgres:17",
    "dotnet/sdk:9.0",
    "acme/api:1.4.1",
    "library/alpine:3.21",
    "library/nginx:1.28",
    "library/postgres:16",
    "dotnet/sdk:8.0",
    "acme/api:1.4.0",
    "library/alpine:3.20",
)
"""The images of the demo's source registry as clients pull them, the first to be tried first."""
