"""The cycle collector, told to look seldom."""

import gc

# So many more objects made than freed before the young are looked at; by default it is 700, which a poll of charges
# passes a hundred times, each time for nothing.
_YOUNG = 100_000
_MIDDLE_PER_OLD = 50


def collect_seldom() -> None:
    """For a service whose transactions make very many objects that all die by reference count.

    What was imported is never looked at again, and a third of the processor time of a posting goes elsewhere.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE_PER_OLD, 1000)
