"""Remote classifiers: one client, one request queue, and a small module for each vendor."""
