"""The OpenAI wire format: schemas, streaming, routes."""
