"""What every document of a user shares: unknown keys are refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]

Text = Annotated[str, Field(max_length=500)]  # of many in a document, such as names of classes or modules
MANY = 2**53  # counts beyond it are no exact numbers everywhere


class Strict(BaseModel):
    """Refuses unknown keys, infinities and later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
