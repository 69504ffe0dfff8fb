"""The table of a recipe that says which layers of a model are factorised before it is trained. No torch here."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CompressConfig(BaseModel):
    """Linear layers become products of a lower rank, from the weights that the model starts with.

    One of rank, energy and flops says which rank; with none of them nothing is factorised. See `ssmlab compress`.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_default=True)

    targets: list[str] = ["in_proj"]
    rank: int = Field(0, ge=0)  # the same for all layers
    energy: float = Field(0.0, ge=0, le=1)  # the share of every layer's squared norm that is kept at least
    flops: float = Field(0.0, ge=0, le=1)  # the share of the layers' operations that is spent, where it keeps most
    residual_rank: int = Field(0, ge=0)  # of a side path that begins with the next directions

    @model_validator(mode="after")
    def _one_rule(self):
        if len(self.rule) > 1:
            raise ValueError(f"compress takes one of rank, energy and flops, got {' and '.join(self.rule)}")
        return self

    @property
    def rule(self) -> dict[str, float]:
        """The rule that is given, as an argument of `adapt.factorize`; empty without one."""
        return {name: value for name in ("rank", "energy", "flops") if (value := getattr(self, name))}
