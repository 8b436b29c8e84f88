"""The whole pipeline on a real instruct model, SmolLM2-135M-Instruct, against independent computations.

`make weights` fetches the model. Without it these tests are skipped, except where REQUIRE_REAL is set, as in `.ci/run`.
"""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.language import smollm2
from datamodules.language.checkpoint import Checkpoint
from datamodules.language.identity import TEXT, identify_prompts
from datamodules.language.language_model import LanguageModel
from tests.support.places import ROOT
from tests.support.runs import run_here, without_pictures

pytestmark = [pytest.mark.real, pytest.mark.slow]
FOLDER = ROOT / "cache" / "models"
CITIES = ROOT / "datamodules" / "questions" / "sets" / "cities.csv"
N, TOKENS = 56, 20


@pytest.fixture(scope="module")
def weights() -> Path:
    path = FOLDER / smollm2.NAME
    if not path.exists():
        if os.environ.get("REQUIRE_REAL"):
            pytest.fail(f"expected {path}; fetch it with: make weights")
        pytest.skip(f"no {path}; fetch it with: make weights")
    return path


@pytest.fixture(scope="module")
def reference(weights):
    """The model and tokenizer as transformers alone load them."""
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    network = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    return tokenizer, network.eval()


@pytest.fixture(scope="module")
def finished(weights, tmp_path_factory):
    """A run over cities; returns its folder and the table of its examples."""
    folder = tmp_path_factory.mktemp("real")
    with without_pictures():
        status, _, err = run_here(
            folder, "model=smollm2", f"model.gguf={weights}", "model.dtype=float32", f"model.max_new_tokens={TOKENS}",
            "dataset=cities", f"dataset.limit={N}", "trainer=cpu",
        )  # fmt: skip
    assert status == 0, err
    return folder, pq.read_table(folder / "run" / "examples.parquet").to_pylist()


def test_answers_are_those_of_the_model_asked_one_at_a_time(finished, reference):
    tokenizer, network = reference
    _, rows = finished
    assert len(rows) == N
    for row in rows[:: N // 8]:
        turn = [{"role": "user", "content": row["question"]}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert row["prompt_ids"] == prompt
        said = network.generate(torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False)[
            0, len(prompt) :
        ].tolist()
        assert row["answer_ids"] == said
        assert row["answer"] == tokenizer.decode(said, skip_special_tokens=True)
        assert (row["finish"] == "stop") == (said[-1] == tokenizer.eos_token_id)


def test_labels_and_exact_answers_are_the_country_that_the_answer_names(finished, reference):
    tokenizer, _ = reference
    _, rows = finished
    right = [row for row in rows if row["label"]]
    assert 0.15 < len(right) / N < 0.5
    assert sum(row["exact_answer"] is not None for row in right) == len(right)
    for row in right:
        assert row["exact_answer"].casefold() in {gold.casefold() for gold in row["gold"]}
    for row in rows:
        if row["exact_answer"] is not None:
            at = 4  # exact_answer_first, and last behind it
            first, last = row["first_token"][at], row["last_token"][at + 1]
            ids = [*row["prompt_ids"], *row["answer_ids"]]
            assert row["exact_answer"] in tokenizer.decode(ids[first : last + 1])
            assert row["exact_answer"] not in tokenizer.decode(ids[first + 1 : last + 1])
            assert row["exact_answer"] not in tokenizer.decode(ids[first:last])


def test_positions_are_the_tokens_of_their_names(finished):
    _, rows = finished
    for row in rows:
        n, length = len(row["prompt_ids"]), len(row["answer_ids"])
        assert row["first_token"][0] == n - 1
        assert row["first_token"][1] == n
        for back in range(1, 9):
            assert row["valid"][-back] is (length >= back)
            if length >= back:
                assert row["first_token"][-back] == n + length - back


def test_activations_are_those_of_an_independent_forward(finished, reference):
    _, network = reference
    folder, rows = finished
    shards = sorted(folder.glob("cache/activations/*/layer=*/shard-00000.safetensors"))
    assert len(shards) == 30
    stored = []
    for path in shards:
        with safe_open(path, "pt") as file:
            stored.append(file.get_tensor("h"))
    for i in range(0, N, N // 5):
        ids = torch.tensor([[*rows[i]["prompt_ids"], *rows[i]["answer_ids"]]])
        with torch.inference_mode():
            states = network(ids, output_hidden_states=True).hidden_states
        for layer in range(29):  # behind the last block transformers gives the stream after the final norm
            for t, (at, valid) in enumerate(zip(rows[i]["first_token"], rows[i]["valid"], strict=True)):
                if valid:
                    expected = states[layer + 1][0, at].bfloat16().float()
                    torch.testing.assert_close(stored[layer][t, i].float(), expected, rtol=0.02, atol=0.02)


def test_the_map_has_the_areas_that_scikit_learn_computes(finished):
    """One map of 30 layers and 15 positions; five cells are fitted again from the stored activations."""
    folder, rows = finished
    table = list(csv.DictReader((folder / "run" / "heatmap.csv").read_text().splitlines()))
    test = {(int(row["layer"]), row["position"]): row for row in table if row["split"] == "test"}
    assert len(test) == 30 * 15
    positions = list(dict.fromkeys(row["position"] for row in table))
    weight, split = _probes(folder), np.array([row["split"] for row in rows])
    labels = np.array([row["label"] for row in rows])
    l2 = json.loads((folder / "run" / "summary.json").read_text())["fit"]["l2"]
    for layer, position in (
        (0, "last_q"),
        (9, "exact_answer_first"),
        (18, "exact_answer_last"),
        (29, "-1"),
        (24, "-2"),
    ):
        t = positions.index(position)
        valid = np.array([row["valid"][t] for row in rows])
        path = next(folder.glob(f"cache/activations/*/layer={layer:02d}/shard-00000.safetensors"))
        with safe_open(path, "pt") as file:
            acts = file.get_tensor("h")[t].double().numpy()
        train, held = (valid & (split == part) for part in ("train", "test"))
        scale = acts[train].std(0)
        oracle = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=100_000).fit(acts[train] / scale, labels[train])
        np.testing.assert_allclose(weight[layer, t] * scale, oracle.coef_[0], atol=2e-3)
        area = roc_auc_score(labels[held], oracle.decision_function(acts[held] / scale))
        assert abs(float(test[layer, position]["auc"]) - area) < 2e-3
        assert int(test[layer, position]["n"]) == held.sum()


def _probes(folder):
    with safe_open(folder / "run" / "probes.safetensors", "np") as file:
        return file.get_tensor("weight")[0]


def test_the_same_weights_have_the_same_identity_wherever_they_lie(weights, tmp_path):
    copy = tmp_path / "copy.gguf"
    os.link(weights, copy) if weights.stat().st_dev == tmp_path.stat().st_dev else copy.write_bytes(
        weights.read_bytes()
    )
    model = LanguageModel(gguf=str(copy))
    assert model.identify()["source"] == {"gguf": smollm2.SHA256}
    assert re.fullmatch(r"[0-9a-f]{64}", smollm2.SHA256)


def test_what_is_kept_of_the_file_reads_texts_as_the_file_does(weights, reference, tmp_path, monkeypatch):
    tokenizer, network = reference
    read = LanguageModel(gguf=str(weights))
    first, config = read.load_tokenizer(tmp_path), read.load_config()
    monkeypatch.setattr(Checkpoint, "_read_tokenizer", None)  # from here on nothing may be read of the file
    monkeypatch.setattr("transformers.integrations.gguf.read_gguf_metadata", None)
    model = LanguageModel(gguf=str(weights))
    kept = model.load_tokenizer(tmp_path)
    assert model.load_config(tmp_path).to_dict() == config.to_dict()
    assert model.load_config().eos_token_id == network.config.eos_token_id
    assert model.identify(tmp_path) == read.identify()
    assert identify_prompts(model, kept, stated=False) == identify_prompts(read, tokenizer, stated=False)
    texts = [row["city"] for row in csv.DictReader(CITIES.read_text().splitlines())]
    texts += [TEXT, "", "  a  b\n\n\tc", "<|im_start|>user\nA?<|im_end|>", "I'm 1,234.5 👩‍🚀 naïve\r\n", "x" * 500]
    assert len(texts) > 1_000
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Where is Rome?"}]
    for other in (first, kept):
        for special in (True, False):
            ids = tokenizer(texts, add_special_tokens=special).input_ids
            assert other(texts, add_special_tokens=special).input_ids == ids
            assert other.batch_decode(ids) == tokenizer.batch_decode(ids)
        assert other.chat_template == tokenizer.chat_template
        assert other.apply_chat_template(turns) == tokenizer.apply_chat_template(turns)
        assert other.special_tokens_map == tokenizer.special_tokens_map
        assert other.all_special_ids == tokenizer.all_special_ids
        assert model.find_stop_ids(other) == model.find_stop_ids(tokenizer)
        assert other.get_vocab() == tokenizer.get_vocab()
