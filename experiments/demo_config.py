"""What `moon demo` does, as one strict configuration."""

from typing import Any

from pydantic import Field

from data.config import Config


class Step(Config):
    """A recipe with changes."""

    recipe: str = Field(description="a recipe of experiments/configs, without .yaml")
    set: tuple[str, ...] = Field((), description="changed fields of it, A.B=C")

    def words(self) -> list[str]:
        """The changes as words of a command."""
        return [word for change in self.set for word in ("--set", change)]


class DemoConfig(Config):
    """`moon demo`."""

    market: dict[str, Any] = Field(default_factory=dict, description="fields of the market that are not its defaults")
    pretrain: Step = Field(description="stage 1 of the encoder")
    posttrain: Step = Field(description="stage A of the encoder")
    id_only: Step = Field(description="the ranker without vectors")
    moon: Step = Field(description="the ranker that reads the vectors, named content there")
    days: int = Field(3, ge=1, description="days of the online test, after the logs")
    programs: str = Field("program", description="what the export holds, of aoti,program,onnx")
