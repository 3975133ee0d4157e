"""The error for unusable input or settings of the user: one sentence, exit code 2."""


class Unusable(Exception):
    """Its message is one sentence for that person: what is missing, or what is needed. Commands end with it, code 2."""
