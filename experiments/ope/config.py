"""What an off-policy estimate reads: a log, the policy whose value is wanted, and how it is judged."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from data.config import Config


class Lottery(Config):
    """The logging policy with another exponent or exploration, on the same click rates."""

    kind: Literal["lottery"]
    greed: float = Field(2.0, ge=0, description="exponent of bid x pCTR")
    exploration: float = Field(0.2, ge=0, le=1, description="probability that a slot is filled uniformly")


class RankerLottery(Config):
    """The lottery on what a trained run believes; a ranking without chance has no overlap with a log of six slots."""

    kind: Literal["ranker"]
    run: Path = Field(description="run directory of `moon train`")
    greed: float = Field(1.0, ge=0, description="exponent of bid x pCTR")
    exploration: float = Field(0.2, ge=0, le=1, description="probability that a slot is filled uniformly")


class MarketLog(Config):
    """Logs of the simulated marketplace, whose truth is known."""

    kind: Literal["marketplace"]
    logs: Path = Field(description="folder of the simulated logs (holds market.yaml)")
    data: Path = Field(description="dataset prepared from them")
    target: Annotated[Lottery | RankerLottery, Field(discriminator="kind")]
    days: int = Field(2, ge=1, description="last days of the logs that are read; a run should not have trained on them")
    replays: int = Field(0, ge=0, description="fresh days on which the intervals' coverage is measured (lottery only)")


class OpenBanditLog(Config):
    """Open Bandit, campaign men: each of the two policies was run, so the truth of either is known up to chance."""

    kind: Literal["open_bandit"]
    root: Path = Field(description="folder of open_bandit_men")
    target: Literal["random", "bts"] = Field(description="policy whose value is estimated from the other one's log")


class OpeConfig(Config):
    """An off-policy estimate. Paths are relative to the working directory."""

    log: Annotated[MarketLog | OpenBanditLog, Field(discriminator="kind")]
    switch: float = Field(10.0, gt=0, description="switch_dr: largest importance ratio that corrects the model")
    draws: int = Field(1000, ge=100, description="bootstrap draws over users (open_bandit: over rows)")
    seed: int = Field(0, ge=0, description="seed of the bootstrap and of the truth's draws")
