"""Something that a person gave, which cannot be used."""


class Unusable(Exception):
    """Its message is one sentence for that person: what is missing, or what is needed. Commands end with it, code 2."""
