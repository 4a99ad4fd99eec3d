"""An off-policy estimate in words and tables."""

from typing import Any

from experiments.page import Table, cell


def markdown(found: dict[str, Any]) -> str:
    """The figures as text."""
    return (
        "\n\n".join(
            [f"# Off-policy estimate on {found['log']}", summary(found), *(t.markdown() for t in tables(found))]
        )
        + "\n"
    )


def summary(found: dict[str, Any]) -> str:
    """What was estimated, in a few sentences."""
    shares = [f"{n / of:.1%}" for n, of in zip(found["effective_sample_size"], found["decisions"], strict=True)]
    truth, target, logging = found["truth"], _policy(found["target"]), _policy(found["logging"])
    text = (
        f"The click rate of {target} from a log of {logging}: {found['rows']:,} decisions, {found['clicks']:,} clicks, "
        f"logged click rate {found['logged_value']:.5f}. The true rate of {target} is {cell(truth, '{:.5f}')}. "
        f"Effective sample size{' by slot' if len(shares) > 1 else ''}: {', '.join(shares)} of the decisions; the "
        f"largest ratio is {found['largest_ratio']:.1f}, switch-DR trusts the model above {found['switch']:g}."
    )
    if "true_lift" in found:
        text += f" The true lift over the logging policy is {found['true_lift']:+.1%}."
    return text


def tables(found: dict[str, Any]) -> list[Table]:
    """The tables."""
    names = found["estimates"]
    rows = [[n, cell(e["value"], "{:.5f}"), cell(e["lift"]), _holds(found, e)] for n, e in names.items()]
    note = f"95 % intervals from {found['draws']:,} draws. The last column: the interval of the value holds the truth."
    every = [Table("Estimates", note, ["estimator", "click rate", "lift over the log", "holds the truth"], rows)]
    if "coverage" in found:
        rows = [
            [n, *(f"{c[k]:.1%}" for k in ("covers_truth", "mean_error", "deviation"))]
            for n, c in found["coverage"].items()
            if n != "truth"
        ]
        note = f"{found['replays']} fresh days. Error and its deviation are relative to the truth."
        every.append(
            Table("Coverage", note, ["estimator", "interval holds the truth", "mean error", "deviation"], rows)
        )
    return every


def _holds(found: dict[str, Any], estimate: dict[str, Any]) -> str:
    value = estimate["value"]
    return "yes" if value["low"] <= found["truth"]["value"] <= value["high"] else "no"


def _policy(policy: Any) -> str:
    """A policy in words."""
    if isinstance(policy, str):
        return policy
    words = {k: v for k, v in policy.items() if k != "kind"}
    return f"a {policy.get('kind', 'lottery')} ({', '.join(f'{k} {v}' for k, v in words.items())})"
