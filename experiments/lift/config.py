"""What an online test plays: a world, the arms, and how they are judged."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.config import Config

BUILT_IN = ("random", "popular", "oracle")
ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class RankerArm(Config):
    """An arm ranked by a trained run."""

    run: Path = Field(description="run directory of `moon train`")


class Refresh(Config):
    """What happens to the rankers every night."""

    model: bool = Field(
        False,
        description="go on training: before the first day on the rest of the logs (valid, test), then every night on "
        "what the arm showed that day",
    )
    vectors: bool = Field(
        False,
        description="the store is filled at night: a product that goes live has no vector on its first day. Otherwise "
        "vectors are there as soon as a product is listed",
    )


class LiftConfig(Config):
    """An online A/B test. Paths are relative to the working directory."""

    logs: Path = Field(description="folder of the simulated logs (holds market.yaml)")
    data: Path = Field(description="dataset prepared from them, on which the runs were trained")
    arms: dict[ArmName, RankerArm] = Field(description="rankers by name; random, popular and oracle always take part")
    control: ArmName = Field(description="the arm that the others are compared with")
    refresh: Refresh = Field(Refresh(), description="nightly work; none by default")  # pyright: ignore[reportCallIssue]
    days: int = Field(7, ge=1, description="days played after the logs; at most the world's later_days")
    replay: int = Field(1, ge=0, description="which traffic: other numbers are other sessions of the same days")
    rank_by: Literal["bid_ctr", "ctr"] = Field("bid_ctr", description="ads stand by bid x pCTR, or by pCTR alone")
    aa_replays: int = Field(200, ge=0, description="A/A tests: users halved by this many salts")
    seed: int = Field(0, ge=0, description="first salt of the split by hash")

    @model_validator(mode="after")
    def _names(self) -> "LiftConfig":
        taken = sorted(set(BUILT_IN) & set(self.arms))
        if taken:
            raise ValueError(f"arms.{taken[0]}: this arm takes part anyway; give the ranker another name")
        if self.control not in (*self.arms, *BUILT_IN):
            raise ValueError(f"control {self.control!r} is no arm (there are: {', '.join([*self.arms, *BUILT_IN])})")
        return self
