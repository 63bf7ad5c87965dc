"""Webhooks: what is sent, how it is signed, and where it may be sent."""
