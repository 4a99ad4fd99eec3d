"""An ablation study as one strict configuration: a base recipe, mechanisms as named changes of it, and what to vary."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from data.config import Config
from features.spec import VectorMode


class Mechanism(Config):
    """One way to use the vectors (or to do without them), as a change of the base recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    title: str = Field(description="what it is, in a few words, for the table")
    tuned_as: str | None = Field(
        None, description="it takes the settings found for this mechanism; None: a search of its own"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="fields of the recipe by dotted path, such as model.content: [...]"
    )

    def untitled(self) -> "Mechanism":
        """All of it that training depends on."""
        return self.model_copy(update={"title": ""})


class Block(Config):
    """A product of mechanisms, modes and widths; the study is the union of its blocks."""

    mechanisms: tuple[str, ...] | None = Field(None, min_length=1, description="by name; None: all of the study")
    modes: tuple[VectorMode, ...] = Field(("frozen",), min_length=1, description="how the vectors may change")
    dims: tuple[int | None, ...] = Field(
        (None,), min_length=1, description="Matryoshka prefixes of the vectors, in dimensions; None: all of them"
    )
    seeds: int | None = Field(None, ge=1, description="the study's first N seeds for this block; None: all of them")


class Choice(Config):
    """A hyper-parameter of the search: a range of numbers or a list of values."""

    low: float | None = None
    high: float | None = None
    log: bool = Field(False, description="draw the logarithm evenly")
    values: tuple[bool | int | float | str | None, ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_kind(self) -> "Choice":
        if (self.values is None) == (self.low is None or self.high is None):
            raise ValueError("give low and high, or values")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self

    def holds(self, value: object) -> bool:
        """Whether the search could choose `value`."""
        if self.values is not None:
            return value in self.values
        assert self.low is not None and self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high


class Tuning(Config):
    """The search every mechanism gets, baselines included: same space, same number of trials, same sampler seed.

    It sees train and valid only: it runs on a view of the dataset that has no test rows.
    """

    trials: int = Field(ge=1, description="runs a mechanism")
    space: dict[str, Choice] = Field(min_length=1, description="by dotted path of the recipe")
    metric: Literal["auc", "gauc"] = Field("auc", description="of the valid split, to be raised")
    sampler_seed: int = 0
    seed: int = Field(1000, description="the recipe's seed in every trial; none of the study's own seeds")
    mode: Literal["frozen", "projected", "finetuned"] = Field(
        "frozen", description="how the vectors may change while tuning"
    )
    dim: int | None = Field(None, description="their prefix while tuning; None: all of them")


class Study(Config):
    """`moon study ablation`."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    base: Path = Field(description="recipe that the mechanisms change; a relative path starts at the study's folder")
    mechanisms: tuple[Mechanism, ...] = Field(min_length=1)
    id_only: str = Field(description="the mechanism without vectors that every other one is held against")
    matrix: tuple[Block, ...] = Field((Block(),), min_length=1)  # pyright: ignore[reportCallIssue]
    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=2, description="repetitions of every cell group")
    tuning: Tuning | None = Field(None, description="None: the base recipe's own settings for every mechanism")
    slices: tuple[str, ...] = Field(("cold_items", "new_items"), description="slices in the table beside overall")
    draws: int = Field(1000, ge=100, description="bootstrap draws over users")
    rows_per_second: float = Field(
        8000, gt=0, description="assumed speed, for the estimate of time before a cell is finished"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        names = [m.name for m in self.mechanisms]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"two mechanisms are called {twice[0]!r}")
        asked = [self.id_only, *(n for block in self.matrix for n in block.mechanisms or ())]
        for name in asked:
            if name not in names:
                raise ValueError(f"no mechanism {name!r} (there are: {', '.join(names)})")
        searched = self.searched()
        for mechanism in self.mechanisms:
            if mechanism.tuned_as is not None and mechanism.tuned_as not in searched:
                raise ValueError(
                    f"mechanisms.{mechanism.name}.tuned_as: no mechanism {mechanism.tuned_as!r} with a search of its "
                    f"own (there are: {', '.join(searched)})"
                )
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is given twice")
        if self.tuning and self.tuning.seed in self.seeds:
            raise ValueError(f"tuning.seed {self.tuning.seed} is one of the study's own seeds")
        return self

    def searched(self) -> list[str]:
        """Mechanisms that are tuned by a search of their own."""
        return [m.name for m in self.mechanisms if m.tuned_as is None]

    def goes_on_from(self, earlier: "Study") -> bool:
        """Whether what was trained for an earlier form of this study is right for this one: base, id_only and tuning
        are the same, and no mechanism was changed. Cells may have come or gone."""
        before = {m.name: m for m in earlier.mechanisms}
        same = all(before[m.name].untitled() == m.untitled() for m in self.mechanisms if m.name in before)
        alike = ("name", "base", "id_only", "tuning")
        return same and all(getattr(self, field) == getattr(earlier, field) for field in alike)

    def mechanism(self, name: str) -> Mechanism:
        """The mechanism of that name."""
        return next(m for m in self.mechanisms if m.name == name)
