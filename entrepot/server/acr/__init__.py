"""The management and data API in the shapes of Azure Container Registry."""
