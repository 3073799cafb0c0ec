"""The common form of every message: frozen, closed to surprises, JSON in UTF-8."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """A frozen message; unknown fields are ignored so that producers may add some."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="ignore")

    def encode(self) -> bytes:
        """Return the message as compact JSON in UTF-8."""
        return self.__pydantic_serializer__.to_json(self)
