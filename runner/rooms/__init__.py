"""Rooms: where a call takes place. One protocol, one module for each kind of room."""
