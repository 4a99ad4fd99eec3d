"""Questions and answers from catalogue columns."""

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from moon_encoder.generation_tasks import Task, Tasks

ITEMS = pl.DataFrame(
    {
        "title": ["Red shirt", " ", "Blue shoe", "Red hat"],
        "colour": ["Red", "Red", None, "Blue"],
        "tags": [["a", "b"], [], ["c"], None],
        "year": [2011, 2012, None, 2013],
    }
)
TITLE = Task(name="title", prompts=("Title?",), answer="{title}")
COLOUR = Task(name="colour", prompts=("Colour?", "What colour is {title}?"), answer="{colour}", exact=True)
STYLE = Task(name="style", prompts=("Describe.",), answer="{colour}, {year}: {tags}")


def test_a_task_applies_where_all_its_columns_are_filled():
    tasks = Tasks.of((TITLE, COLOUR, STYLE), ITEMS)
    assert tasks.answers.tolist() == [
        ["Red shirt", "Red", "Red, 2011: a, b"],
        ["", "", ""],  # the second wording of colour names the title, which is blank
        ["Blue shoe", "", ""],
        ["Red hat", "Blue", ""],
    ]
    assert tasks.question(0, 1, 1) == ("What colour is Red shirt?", "Red")
    assert tasks.majority(np.array([0, 2, 3])) == ["Blue shoe", "Blue", "Red, 2011: a, b"]


def test_what_is_asked_is_drawn_by_the_seed():
    tasks = Tasks.of((TITLE, COLOUR, STYLE), ITEMS)
    ask = [tasks.asked(0, 2, np.random.default_rng(seed)) for seed in range(40)]
    assert ask[:3] == [tasks.asked(0, 2, np.random.default_rng(seed)) for seed in range(3)]
    assert all(len({answer for _, answer in asked}) == 2 for asked in ask)
    assert {question for asked in ask for question, _ in asked} == {
        "Title?", "Colour?", "What colour is Red shirt?", "Describe.",
    }  # fmt: skip
    assert len(tasks.asked(0, None, np.random.default_rng(0))) == 3 and not tasks.asked(
        1, None, np.random.default_rng(0)
    )
    assert set(tasks.texts(np.array([2]))) == {
        "Title?",
        "Colour?",
        "What colour is Blue shoe?",
        "Describe.",
        "Blue shoe",
    }


@pytest.mark.parametrize(
    ("answer", "says"), [("{brand}", "no column 'brand'; it has title, colour, tags, year"), ("{title", "no template")]
)
def test_mistakes_name_the_task(answer, says):
    with pytest.raises(InputError, match=f"task bad: .*{says}"):
        Tasks.of((Task(name="bad", prompts=("?",), answer=answer),), ITEMS)
