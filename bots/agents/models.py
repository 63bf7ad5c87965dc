"""Loads the speech models before the first call, so that it is answered as quickly as the next."""


def preload_speech() -> None:
    """Load the offline speech models into this process; blocks for two to three seconds.

    Raises:
        MissingSpeechPackage: The extra ``offline`` is not installed.
    """
    from bots.caller.speech import hibari, whisper

    hibari.preload()
    whisper.preload()
