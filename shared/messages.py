"""Base classes: messages, which tolerate other versions, and requests, which refuse unknown fields."""

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen record of a topic or of the lake.

    Records outlive the code that wrote them: a reader ignores fields that it does not know, and every field that
    an older writer did not have needs a default. An error's text does not quote the record, which may name a person.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Request(BaseModel):
    """What a caller sends by HTTP: a field that we do not know is refused, since it is a mistake of the caller.

    `class PaymentRequest(Payment, Request)` is the strict form of a message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
