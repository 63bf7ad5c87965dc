"""The scripted caller: what it does (script), how it decides (director), how it speaks and hears (pipeline)."""
