"""The caller's speech: what it says and how a recording of it is understood.

Nothing is imported here, so that pure code can use :mod:`bots.caller.speech.wording` without loading audio libraries.
"""
