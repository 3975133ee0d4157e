"""Errors of the dependencies of a service: log, store, registry, disk, memory.

They say nothing about the record in hand, so the work is tried again with the same input, and never dead-lettered.
"""


class DependencyUnavailable(Exception):
    """A part that the service depends on does not answer now; the same call may succeed later."""


DEPENDENCY_ERRORS = (DependencyUnavailable, OSError, MemoryError)
