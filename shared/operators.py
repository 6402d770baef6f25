"""What an operator says with every decision that a service keeps."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _refuse_nul(text: str) -> str:
    """No text in PostgreSQL holds U+0000."""
    if "\0" in text:
        raise ValueError("must not hold U+0000")
    return text


Words = Annotated[str, Field(min_length=1), AfterValidator(_refuse_nul)]
Actor = Annotated[Words, Field(max_length=200)]
Reason = Annotated[Words, Field(max_length=2000)]


class OperatorWord(BaseModel):
    """Who decides, and why."""

    model_config = ConfigDict(extra="forbid")

    actor: Actor
    reason: Reason
