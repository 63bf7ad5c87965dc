"""What Python's search for garbage costs where something has to be on time, and how it is kept small."""

import functools
import gc

SERVING_THRESHOLDS = (50_000, 20, 20)
"""Of a process that answers with large results: a search for every 50,000 objects more, not for every 700.

What is made there are trees of values, which go without a search; looking through them took a third of the time.
"""


@functools.cache
def spare_what_is_loaded() -> None:
    """Leave out of every later search what is loaded by now; does it once in a process.

    A full search looks at every object there is and stops all threads for some 0.4 s. Nearly all of that are the
    libraries' own objects, which stay.
    """
    gc.collect()
    gc.freeze()


def search_seldom() -> None:
    """Spare what is loaded by now, and search less often from now on."""
    spare_what_is_loaded()
    gc.set_threshold(*SERVING_THRESHOLDS)
