"""The caller's speech: what it says and how a recording of it is understood.

Nothing is imported here, so that whoever needs :mod:`bots.caller.speech.settings` alone loads no audio libraries.
"""
