"""The base of every table of a recipe. pydantic reads them; torch is not imported."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of a recipe; unknown keys are errors. The text under a field is its description."""

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True, use_attribute_docstrings=True)
