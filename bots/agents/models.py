"""Loads the speech models before the first call, so that it is answered as quickly as the next."""


def preload_speech() -> None:
    """Load the offline speech models into this process; blocks for two to three seconds.

    Raises:
        MissingSpeechPackage: The extra ``offline`` is not installed.
    """
    import numpy as np

    # The public services load these models too, in the setup of their pipeline; they load them once per process.
    from bots.caller.speech import hibari, whisper

    hibari._shared_model(hibari.DEFAULT_VOICE).load()  # pyright: ignore[reportPrivateUsage] - see above
    model = whisper._shared_model()  # pyright: ignore[reportPrivateUsage] - see above
    segments, _ = model.transcribe(np.zeros(16_000, np.float32), language="en")
    list(segments)
