"""The HTTP paths of the service."""
