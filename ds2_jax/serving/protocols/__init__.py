"""The protocols of the server, one module each, and what they share."""
