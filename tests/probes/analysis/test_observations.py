import json
import math
import re
from dataclasses import replace

import pytest
import torch

from probes.analysis.block import required_lead
from probes.analysis.observations import observe
from probes.analysis.wording import digits
from tests.support.maps import PAPER, map_of

NAMES = ["block", "gradient", "question", "trailing", "last_layer", "chance"]


def flat(auc=0.6, L=10, T=15):
    return torch.full((L, T), auc, dtype=torch.float64)


def seen(auc, name, positions=PAPER, layers=None, readable=None, se=0.02, **more):
    """One observation of a map, as sentence and numbers."""
    found = observe(map_of(auc, readable, layers, positions, se), **more)
    json.dumps(found, allow_nan=False)
    [one] = [one for one in found if one["name"] == name]
    return one["sentence"], one["numbers"]


def with_block():
    """AUC .9 in layers 4 to 6 at the exact answer's first and last token, .6 elsewhere."""
    auc = flat()
    auc[4:7, 4:6] = 0.9
    return auc


def numbers_in(content):
    """Every number of a nested dict."""
    if isinstance(content, dict | list):
        return [
            number
            for part in (content.values() if isinstance(content, dict) else content)
            for number in numbers_in(part)
        ]
    return [float(content)] if isinstance(content, int | float) and not isinstance(content, bool) else []


def test_every_number_of_a_sentence_is_among_its_numbers():
    auc = with_block() + torch.linspace(0, 0.05, 10, dtype=torch.float64)[:, None]
    found = observe(map_of(auc, positions=PAPER, se=0.01), chance=0.61)
    assert [one["name"] for one in found] == NAMES
    for one in found:
        known = [abs(number) for number in numbers_in(one["numbers"])]
        for text in re.findall(r"(?<![-\w.])\.\d+", one["sentence"]):
            assert any(abs(float(text) - number) <= 5.1e-4 for number in known), (text, one)


def test_the_block():
    sentence, numbers = seen(with_block(), "block", layers=tuple(range(0, 20, 2)))
    assert sentence == (
        "The dominant block is layers 8 to 12 at exact_answer_first to exact_answer_last: 4% of the readable cells, "
        "mean AUC .900 against .600 elsewhere."
    )
    assert numbers == {
        "layers": [8, 12],
        "positions": ["exact_answer_first", "exact_answer_last"],
        "share": 6 / 150,
        "mean_inside": pytest.approx(0.9),
        "mean_outside": pytest.approx(0.6),
    }


def test_no_block():
    auc = flat()
    auc[3, 4] = 0.63
    needed = required_lead(1 / 150)
    sentence, numbers = seen(auc, "block")
    assert sentence == (
        "No block stands out: the mean AUC is .600, the highest .630, and the darkest rectangle is on average .030 "
        f"above the rest, less than {needed:.1f} standard errors of a cell ({digits(needed * 0.02)})."
    )
    assert numbers["spreads_needed"] == needed
    assert numbers["spread"] == pytest.approx(0.02)
    assert [one["name"] for one in observe(map_of(auc, positions=PAPER))] == [
        name for name in NAMES if name != "gradient"
    ]
    assert seen(auc, "block", spread=0.03 / needed * 0.99)[0].startswith("The dominant block is layer 3 at")
    assert seen(auc, "block", chance=0.64)[0] == (
        "No block stands out: the mean AUC is .600, the highest .630, and noise alone reaches .640."
    )
    assert seen(flat(), "block")[0] == "No block stands out: the mean AUC is .600, the highest .600."


def test_the_gradient_is_the_slope_planted_on_each_side():
    auc, rows = flat(0.5, L=20), torch.arange(20.0, dtype=torch.float64)
    profile = 0.9 - 0.05 * (8 - rows).clamp(0) - 0.08 * (rows - 15).clamp(0)
    auc[:, 4], auc[:, 5], auc[:, 3], auc[:, 6] = profile, profile, profile - 0.2, profile - 0.25
    layers = tuple(range(0, 40, 2))
    assert seen(auc, "block", layers=layers)[1]["positions"] == ["exact_answer_first", "exact_answer_last"]
    sentence, numbers = seen(auc, "gradient", layers=layers)
    assert numbers == {  # layers are two apart
        "above": pytest.approx(0.025),
        "below": pytest.approx(0.04),
        "left": pytest.approx(0.2),
        "right": pytest.approx(0.25),
    }
    assert sentence == (
        "Away from the block AUC falls by .025 per layer up to layer 0, by .040 per layer down to layer 38, by .200 "
        "per token to the left (to exact_answer_before_first) and by .250 per token to the right (to "
        "exact_answer_after_last)."
    )


def test_a_side_without_cells_has_no_gradient():
    auc = flat()
    auc[:, 3:7] = 0.9
    auc[:3, 3:7] = 0.6
    sentence, numbers = seen(auc, "gradient")
    assert (numbers["below"], numbers["left"], numbers["right"]) == (None, None, None)
    assert sentence == f"Away from the block AUC falls by {digits(numbers['above'])} per layer up to layer 0."


def test_a_gradient_may_rise():
    auc = with_block()
    auc[0, 4:6], auc[1:4, 4:6] = 0.95, 0.5
    sentence, numbers = seen(auc, "gradient")
    assert numbers["above"] == pytest.approx(-0.01)  # .9, three times .5, .95: least squares
    assert sentence.startswith("Away from the block AUC rises by .010 per layer up to layer 0, falls by ")


def test_the_first_tokens_are_the_lightest():
    auc = flat(0.8)
    auc[:, 0], auc[:, 1], auc[:, 2] = 0.7, 0.6, 0.65
    auc[6, 0] = 0.75
    sentence, numbers = seen(auc, "question")
    assert sentence == (
        "The question's end and the first answer tokens are the lightest columns: last_q .705, first_answer .600 and "
        "second_answer .650 on average over the layers, .148 below the others (.800; the lightest of them is "
        "exact_answer_before_first, .800); last_q is best in layer 6, .750."
    )
    assert numbers["lightest"] is True
    assert numbers["below_others"] == pytest.approx(0.8 - (0.705 + 0.6 + 0.65) / 3)
    auc[:, 9] = 0.62
    sentence, numbers = seen(auc, "question")
    assert numbers["lightest"] is False
    assert "are not all the lightest columns" in sentence
    assert "the lightest of them is -6, .620" in sentence


@pytest.mark.parametrize(
    ("positions", "start"),
    [
        (("last_q", "a", "b"), "The question's end is the lightest column: last_q .600 on average"),
        (("first_answer", "a", "b"), "The first answer tokens are the lightest columns: first_answer .600 on average"),
    ],
)
def test_of_the_first_tokens_those_that_the_map_has(positions, start):
    auc = flat(0.8, T=3)
    auc[:, 0] = 0.6
    assert seen(auc, "question", positions)[0].startswith(start)


def test_the_trailing_tokens():
    auc = flat(0.7)
    auc[2, 8], auc[5, 13] = 0.61, 0.83
    auc[[7] * 8, range(7, 15)] = 0.75
    sentence, numbers = seen(auc, "trailing")
    assert sentence == (
        "At the trailing tokens -8 to -1 AUC runs from .610 (-7, layer 2) to .830 (-2, layer 5), mean .706; the best "
        "layer of each is among layers 5 to 7."
    )
    assert numbers["best_layers"] == {str(token): 5 if token == -2 else 7 for token in range(-8, 0)}
    assert numbers["mean"] == pytest.approx((80 * 0.7 - 0.09 + 0.13 + 8 * 0.05) / 80)
    one = seen(auc[:, -1:], "trailing", ("-1",))[0]
    assert one == "At -1 AUC runs from .700 (layer 0) to .750 (layer 7), mean .705."


def test_what_the_last_layer_alone_reads():
    auc = flat(0.6)
    auc[-1, 0], auc[-1, 14], auc[-1, 3] = 0.70, 0.65, 0.639
    auc[4, 7], auc[-1, 7] = 0.7, 0.69  # an earlier layer is better
    sentence, numbers = seen(auc, "last_layer")
    assert sentence == (
        "In 2 of 15 columns layer 9, the last, is at least 2 standard errors above the best earlier layer: last_q "
        "(+.100) and -1 (+.050)."
    )
    assert numbers["leads"] == {"last_q": pytest.approx(0.1), "-1": pytest.approx(0.05)}
    auc[-1, 0] = auc[-1, 14] = 0.5
    sentence, numbers = seen(auc, "last_layer")
    assert sentence == (
        "In no column is layer 9, the last, 2 standard errors above the best earlier layer: its largest lead is .039 "
        "(exact_answer_before_first; 2 standard errors are .040)."
    )
    assert numbers["leads"] == {}


def test_cells_that_equal_chance_by_their_errors():
    auc = flat(0.55)
    auc[:, 0], auc[3, :], auc[7, 7] = 0.5, 0.535, 0.465
    auc[8, 8] = 0.3  # far below
    sentence, numbers = seen(auc, "chance")
    assert sentence == (
        "25 of 150 readable cells (17%) equal chance: AUC within 2 standard errors of .5; among them is every cell of "
        "layer 3 and last_q."
    )
    assert (numbers["n_equal"], numbers["layers"], numbers["positions"]) == (25, [3], ["last_q"])
    assert seen(flat(0.6), "chance")[0] == (
        "None of the 150 readable cells equal chance: AUC within 2 standard errors of .5."
    )


def test_cells_that_reach_no_more_than_noise():
    auc = flat(0.7)
    auc[:2] = 0.61
    sentence, numbers = seen(auc, "chance", chance=0.617)
    assert sentence == (
        "30 of 150 readable cells (20%) reach no more than chance, .617 (95% of the best cells without signal); among "
        "them is every cell of layers 0 and 1."
    )
    assert numbers["share"] == 0.2
    assert seen(auc, "chance", chance=0.8)[0].startswith(
        "All of the 150 readable cells reach no more than chance, .800"
    )


def test_unreadable_cells_have_no_say():
    auc = with_block()
    readable = torch.ones(10, 15, dtype=torch.bool)
    readable[:, 1] = readable[0] = readable[9, 3:] = False
    expected = observe(map_of(auc, readable, positions=PAPER))
    for value in (0.0, 1.0, math.nan):
        assert observe(map_of(auc.where(readable, value), readable, positions=PAPER)) == expected
    assert "first_answer" not in expected[2]["numbers"]["means"]
    assert observe(map_of(auc, torch.zeros(10, 15, dtype=torch.bool), positions=PAPER)) == []


def test_positions_that_a_map_lacks_give_no_sentence():
    auc = flat(T=3)
    auc[4:7, 1] = 0.9
    found = observe(map_of(auc, positions=("a", "b", "c")))
    assert [one["name"] for one in found] == ["block", "gradient", "last_layer", "chance"]
    one_layer = observe(map_of(flat(L=1, T=2), positions=("a", "b")))
    assert [one["name"] for one in one_layer] == ["block", "chance"]


def test_the_spread_of_a_mean_map_is_a_standard_deviation():
    mean = replace(map_of(flat(), positions=PAPER), spread="SD")
    text = " ".join(one["sentence"] for one in observe(mean))
    assert "standard deviations" in text
    assert "error" not in text


def test_nothing_is_said_of_a_last_layer_without_an_error():
    """As where all positives of the test are of one group: no error can be given."""
    assert "last_layer" not in [one["name"] for one in observe(map_of(with_block(), se=math.nan))]
