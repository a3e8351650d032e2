"""A server for live speech: sessions, protocols, the page."""
