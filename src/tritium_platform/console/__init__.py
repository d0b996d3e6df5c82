"""The operator's console: pages drawn on the server from the same services as the API."""
