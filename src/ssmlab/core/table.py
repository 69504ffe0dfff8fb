"""The base of every table of a recipe. pydantic reads them; torch is not imported."""

import codecs
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError(f"{name!r} is no encoding that Python knows; such as utf-8, latin-1 or cp1252") from None


Encoding = Annotated[str, AfterValidator(_codec)]


class Table(BaseModel):
    """A table of a recipe; unknown keys are errors. The text under a field is its description."""

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True, use_attribute_docstrings=True)
