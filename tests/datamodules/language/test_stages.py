"""The cached stages: keys that caches of earlier versions have, and numbers that are not finite."""

import io
import math
import re
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from datamodules.language import activation_stage
from datamodules.language.activation_stage import ActivationStage
from datamodules.language.answer_stage import AnswerStage
from datamodules.language.cache.shards import get_rows
from datamodules.language.generation import Answer, generate_answers, read_answers
from datamodules.language.language_model import LanguageModel
from datamodules.language.running_model import RunningModel
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.files import FileQuestions
from datamodules.stream.read_ahead import get_copy_stream
from tests.support.simulated_cuda import SimulatedCuda, simulate

PROMPTS = [[1, 5, 6], [1, 7]]
ANSWERS = [Answer([1, 5, 6], [9, 2], [0.0, 0.0], "stop", ""), Answer([1, 7], [8], [0.0], "length", "")]
NAMES = ["last_q", "mean"]
TOKENS = torch.tensor([[[2, 2], [3, 4]], [[1, 1], [0, 0]]])
VALID = torch.tensor([[True, True], [True, False]])
CPU = torch.device("cpu")


@pytest.fixture
def running(language_model):
    with RunningModel(replace(language_model, batch_size=8), CPU, head=True, quiet=True) as model:
        yield model


def test_keys_are_those_that_earlier_versions_wrote(language_model, tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageModel, "identify", lambda self, memory=None: {"source": "tiny", "dtype": self.dtype})
    with LanguageModelStages(language_model, FileQuestions(path="colours.csv"), str(tmp_path), CPU, True) as stages:
        stages.answer(["a", "b"], PROMPTS)
        stages.capture(["a", "b"], ANSWERS, NAMES, TOKENS, VALID, ["z", "resid_post"], [0, 2])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("a*/*")) == [
        "activations/97f8e897ed70f461ff17",
        "activations/e72e980d7898405d2701",
        "answers/70146f192f4e11266961",
    ]


def test_answers_are_made_shard_by_shard(running, language_model, tmp_path):
    stage = AnswerStage(running, ["a", "b"], PROMPTS, language_model)
    advanced = []
    ((name, content),) = stage.make(get_rows(0, 2), ["answers"], advanced.extend)["answers"].items()
    assert name == "shard-00000.parquet"
    (tmp_path / name).write_bytes(content)
    answers = read_answers(tmp_path / name)
    assert [list(answer.prompt_ids) for answer in answers] == PROMPTS
    assert sorted(advanced) == [0, 1]
    assert stage.tokens == [3 + 14, 2 + 14]
    assert stage.cost() == 16 * 17
    assert stage.estimate(2) > 0


def test_activations_cost_their_bytes(running):
    sites = ["z", "mlp_post"]
    stage = ActivationStage(running, ["a", "b"], ANSWERS, NAMES, TOKENS, VALID, sites, [0, 2])
    made = stage.make(get_rows(0, 2), sites, lambda rows: None)
    assert sorted(made["z"]) == ["layer=00/shard-00000.safetensors", "layer=02/shard-00000.safetensors"]
    assert stage.cost(sites) == 2 * 2 * 2 * (32 + 64)
    stored = sum(len(content) for files in made.values() for content in files.values())
    assert 0 < stored - 2 * stage.cost(sites) < 4 * 200  # what is more is the headers of four files
    assert stage.tokens == [5, 3]


def test_numbers_too_large_for_the_store_are_named(running, monkeypatch):
    """The largest float32 numbers are infinite in bfloat16."""

    def capture(network, sequences, tokens, sites, layers):
        acts = torch.zeros(len(sequences), len(layers), tokens.shape[1], 4)
        acts[0, 1, 0, 3] = torch.finfo(torch.float32).max
        return dict.fromkeys(sites, acts)

    monkeypatch.setattr("datamodules.language.activation_stage.capture", capture)
    stage = ActivationStage(running, ["a", "b"], ANSWERS, NAMES, TOKENS, VALID, ["resid_post"], [0, 2])
    with pytest.raises(ValueError, match="got inf at layer 2, position last_q, example b; try model"):
        stage.make(get_rows(0, 2), ["resid_post"], lambda rows: None)


def break_answers(monkeypatch, at):
    """Let the answer to the second prompt have a log-probability that is not finite."""

    def generate(network, tokenizer, prompts, *rest):
        logprobs = {5: [0.0] * 4, 7: [0.0] * at + [float("nan")] * (4 - at)}
        return [Answer(prompt, [3, 4, 10, 2], logprobs[prompt[1]], "stop", "") for prompt in prompts]

    monkeypatch.setattr("datamodules.language.answer_stage.generate_answers", generate)


def spoil_token(network, layer, token):
    """Make a block's output NaN where the model reads one token."""

    def spoil(module, args, output):
        here = seen[-1] == token
        return output.masked_fill(here[..., None], torch.nan)

    seen = []
    network.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.model.layers[layer].register_forward_hook(spoil)


@pytest.mark.parametrize(
    ("token", "at", "place"),
    [(7, 0, "last_q"), (3, 1, "answer token 1"), (10, 3, "answer token 3")],
)
def test_answers_that_are_not_finite_name_layer_position_and_example(
    running, language_model, monkeypatch, token, at, place
):
    break_answers(monkeypatch, at)
    spoil_token(running.network, 1, token)
    stage = AnswerStage(running, ["a", "b"], PROMPTS, language_model)
    with pytest.raises(ValueError, match=f"finite numbers, got nan at layer 1, position {place}, example b; try"):
        stage.make(get_rows(0, 2), ["answers"], lambda rows: None)


def test_log_probabilities_that_the_head_spoils_name_position_and_example(running, language_model, monkeypatch):
    break_answers(monkeypatch, 2)
    stage = AnswerStage(running, ["a", "b"], PROMPTS, language_model)
    line = "got nan from answer token 2 of example b, behind layer 2, the last one, whose numbers are finite; try"
    with pytest.raises(ValueError, match=re.escape(line)):
        stage.make(get_rows(0, 2), ["answers"], lambda rows: None)


@pytest.mark.parametrize("name", ["check_finite", "capture"])
def test_memory_that_runs_out_beside_the_forward_halves_too(running, monkeypatch, name):
    """Checks and copies take memory of the device as well; what is stored does not change, in float32 on the CPU."""
    answers = [replace(ANSWERS[0], answer_ids=[9] * (1 + i % 5)) for i in range(20)]
    tokens, valid = TOKENS[:1].repeat(20, 1, 1), VALID[:1].repeat(20, 1)
    tokens[:, 1] = 3
    stage = ActivationStage(running, list(map(str, range(20))), answers, NAMES, tokens, valid, ["z", "mlp_out"], [0, 2])
    expected = stage.make(get_rows(0, 20), ["z", "mlp_out"], lambda rows: None)
    module, tried = "datamodules.language.activation_stage", []
    whole = getattr(activation_stage, name)

    def run_out(*arguments):
        tried.append(len(arguments[1] if name == "capture" else arguments[0]))
        if tried[-1] > 3:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return whole(*arguments)

    monkeypatch.setattr(f"{module}.{name}", run_out)
    assert stage.make(get_rows(0, 20), ["z", "mlp_out"], lambda rows: None) == expected
    assert tried[:2] == [8, 4]
    assert max(tried[2:]) <= 3


def test_what_is_kept_of_a_batch_lies_on_the_cpu(running, monkeypatch):
    """Of a model on a GPU nothing may stay there between batches."""
    get_copy_stream.cache_clear()
    with SimulatedCuda() as device:
        acts = simulate(torch.randn(2, 2, 2, 32))
        monkeypatch.setattr("datamodules.language.activation_stage.capture", lambda *_: {"resid_post": acts})
        stage = ActivationStage(running, ["a", "b"], ANSWERS, NAMES, TOKENS, VALID, ["resid_post"], [0, 2])
        read = stage._read([1, 0], ["resid_post"]).tensors["resid_post"]
        assert not read.is_cuda
        assert read.dtype == torch.bfloat16
        assert torch.equal(read[1], acts[1].cpu().bfloat16())
        assert read[0, :, 1].count_nonzero() == 0  # a position that the example lacks
        assert device.live == acts.numel() * 4
    get_copy_stream.cache_clear()


def test_a_shard_captured_on_a_gpu_has_the_bytes_of_one_on_the_cpu(running, monkeypatch):
    """Copies run behind: the CPU waits for none of them, only for each check and, in a thread, each copy."""
    answers = [replace(ANSWERS[0], answer_ids=[9] * (1 + i % 5)) for i in range(40)]
    tokens, valid = TOKENS[:1].repeat(40, 1, 1), VALID[:1].repeat(40, 1)
    tokens[:, 1] = 3
    sites = ["z", "mlp_out"]
    stage = ActivationStage(running, list(map(str, range(40))), answers, NAMES, tokens, valid, sites, [0, 2])
    made = stage.make(get_rows(0, 40), sites, lambda rows: None)
    expected = {site: {name: bytes(file) for name, file in files.items()} for site, files in made.items()}
    whole = activation_stage.capture
    monkeypatch.setattr(
        "datamodules.language.activation_stage.capture",
        lambda *given: {site: simulate(h) for site, h in whole(*given).items()},
    )
    get_copy_stream.cache_clear()
    with SimulatedCuda() as device:
        for _ in range(2):  # the second one in the same buffers
            del made
            made = stage.make(get_rows(0, 40), sites, lambda rows: None)
            assert made == expected
        assert device.live == 0
        assert (device.pinned, device.streams) == (2 * len(sites), 1)
        batches = 2 * 5
        assert device.waits["host-copies_0"] == batches
        # One for each site: simulate() copies there, the mask is copied there, and the check waits.
        assert device.waits["MainThread"] == 3 * batches * len(sites)
    get_copy_stream.cache_clear()


def test_answers_are_the_same_in_smaller_batches(running, language_model, monkeypatch):
    prompts = [[1, *range(5, 6 + i % 4)] for i in range(20)]
    stage = AnswerStage(running, list(map(str, range(20))), prompts, language_model)
    expected = stage.make(get_rows(0, 20), ["answers"], lambda rows: None)
    tried = []

    def run_out(network, tokenizer, batch, *settings):
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate_answers(network, tokenizer, batch, *settings)

    monkeypatch.setattr("datamodules.language.answer_stage.generate_answers", run_out)
    made = stage.make(get_rows(0, 20), ["answers"], lambda rows: None)
    assert tried[:2] == [8, 4]
    assert max(tried[2:]) <= 3
    ids = [pq.read_table(io.BytesIO(one["answers"]["shard-00000.parquet"]))["answer_ids"] for one in (made, expected)]
    assert ids[0] == ids[1]


def test_numbers_that_are_not_finite_are_told_where_memory_does_not_hold_the_search(
    running, language_model, monkeypatch
):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("datamodules.language.answer_stage.capture", run_out)
    stage = AnswerStage(running, ["a", "b"], PROMPTS, language_model)
    with pytest.raises(ValueError, match=r"got nan from last_q of example b; try model.dtype=float32"):
        stage._refuse(1, Answer([1, 7], [8], [math.nan], "length", ""))
