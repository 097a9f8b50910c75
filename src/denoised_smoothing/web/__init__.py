"""The web page and the service: certified predictions over HTTP, and how they come about."""
