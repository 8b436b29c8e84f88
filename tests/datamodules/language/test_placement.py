"""Where the weights go, and what is said where they cannot."""

import gc
import io
import weakref
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from datamodules.language.answer_stage import AnswerStage
from datamodules.language.device_memory import count_fitting_tokens, count_token_bytes, count_weight_bytes
from datamodules.language.generation import generate_answers
from datamodules.language.placement import choose_device, require_equal_parts
from datamodules.language.running_model import RunningModel
from tests.support.simulated_cuda import CUDA, SimulatedCuda
from tests.support.simulated_model import OnCuda

CPU = torch.device("cpu")
SEVERAL = {"model": "cpu", "lm_head": "disk"}  # accelerate then puts hooks on every module


def fail(error):
    def call(*_, **__):
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 112.00 MiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_model_too_large_for_its_device_is_told_in_one_line(language_model, monkeypatch, error):
    monkeypatch.setattr(LlamaForCausalLM, "to", fail(error))
    with pytest.raises(
        ValueError, match=r"expected memory for the weights of .*, about 0.0 GB in float32, got"
    ) as caught:
        language_model.load("cpu")
    line = str(caught.value)
    assert " GB free on cpu; choose model.device_map=auto, which spreads them over all devices, " in line
    assert "model.quantisation={load_in_4bit: true}, model.dtype=bfloat16, a smaller model" in line
    assert "\n" not in line
    assert caught.value.__context__ is None  # nothing keeps what was loaded


def test_a_device_too_full_to_tell_is_told_in_one_line(language_model, monkeypatch):
    full = torch.OutOfMemoryError("CUDA error: out of memory")
    monkeypatch.setattr(LlamaForCausalLM, "to", fail(full))
    monkeypatch.setattr(torch.cuda, "mem_get_info", fail(full))
    with pytest.raises(ValueError, match=r"got no room at all on cuda:0; choose"):
        language_model.load("cuda:0")


@pytest.mark.parametrize("settings", [{"device_map": "cpu"}, {"tp_plan": "auto"}, {}])
def test_memory_that_runs_out_while_loading_is_told_too(language_model, monkeypatch, settings):
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", fail(RuntimeError("CUDA error: out of memory")))
    with pytest.raises(ValueError, match="expected memory for the weights of") as caught:
        replace(language_model, **settings).load("cpu")
    assert ("choose model.device_map" in str(caught.value)) == (not settings)


def test_bytes_needed_and_free_are_those_of_the_model_and_the_device(language_model, monkeypatch):
    """A model of 7 billion weights in name, on a card with 1 GB free."""
    monkeypatch.setattr(type(language_model.checkpoint), "count_weights", lambda self, head: 7_000_000_000)
    monkeypatch.setattr("datamodules.language.misfits.require_room", lambda *_: None)  # its files hold far fewer
    monkeypatch.setattr(LlamaForCausalLM, "to", fail(torch.OutOfMemoryError("CUDA out of memory.")))
    with (
        SimulatedCuda(memory=10**9),
        pytest.raises(ValueError, match=r"about 28.0 GB in float32, got 1.0 GB free on c"),
    ):
        language_model.load(CUDA)


def test_weights_are_counted_by_their_shapes(language_model):
    for head in (True, False):
        network = language_model.load("cpu", head=head)
        assert language_model.checkpoint.count_weights(head) == network.num_parameters()
        assert count_weight_bytes(network, {CPU}) >= 4 * network.num_parameters()
        assert count_weight_bytes(network, {CUDA}) == 0


def test_a_half_loaded_model_is_gone_when_free_memory_is_measured(language_model, monkeypatch):
    seen, alive = [], []

    def to(self, *_):
        seen.append(weakref.ref(self))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(LlamaForCausalLM, "to", to)
    monkeypatch.setattr(
        "datamodules.language.placement.measure_free_bytes", lambda _: alive.append(seen[0]() is not None) or 0
    )
    with pytest.raises(ValueError, match="expected memory"):
        language_model.load("cpu")
    assert alive == [False]


@pytest.mark.parametrize("settings", [{}, {"device_map": {"": "cpu"}}, {"device_map": SEVERAL}])
def test_a_model_that_is_left_is_gone(language_model, settings):
    """Hooks of `device_map` hold the model in a reference cycle; without the collector it stays."""
    gc.collect()
    gc.disable()
    try:
        with RunningModel(replace(language_model, **settings), CPU, head=True) as running:
            network = running.network
            assert running.writing.size == running.reading.size
            seen = weakref.ref(network)
            del network
            assert seen() is not None
        assert seen() is None
    finally:
        gc.enable()


def test_plans_of_batches_do_not_keep_a_model_in_parts(language_model, monkeypatch):
    loaded = [language_model.load("cpu")]
    monkeypatch.setattr(type(language_model), "load", lambda self, device, head: loaded.pop())
    with RunningModel(replace(language_model, tp_plan="auto"), CPU, head=True) as running:
        plans, seen = (running.reading, running.writing), weakref.ref(running.network)
    assert seen() is None
    assert [plan.agree(True) for plan in plans] == [True, True]


def test_the_device_is_that_of_the_trainer_or_the_one_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    second = torch.device("cuda", 1)
    assert choose_device(None, second) == second
    assert choose_device("cuda", second) == second
    assert choose_device("cuda", CPU) == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("cuda", CPU) == second  # the fourth process on a machine with two
    assert choose_device("cpu", second) == CPU
    assert choose_device("mps", CPU) == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"model.device: expected a device of this machine, got mps, .* choose cpu or cu"
    ):
        choose_device("mps", CPU)


def test_the_numbers_of_processes_that_are_named_divide_all_heads():
    config = LlamaConfig(hidden_size=12, num_attention_heads=12, num_key_value_heads=4)
    with pytest.raises(ValueError, match=r"divides the 12 heads \(num_attention_heads\), got 8; start 2 or 4, or set"):
        require_equal_parts(config, 8)


def test_heads_that_do_not_divide_are_refused_before_loading(language_model, monkeypatch):
    """4 heads, 2 of keys and values."""
    config = language_model.load_config()
    require_equal_parts(config, 2)
    for n, name in [
        (3, "4 heads .num_attention_heads., got 3; start 2, or"),
        (4, "2 heads .num_key_value_heads., got 4;"),
    ]:
        with pytest.raises(ValueError, match=f"model.tp_plan: expected a number of processes that divides the {name}"):
            require_equal_parts(config, n)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", fail(AssertionError("loaded")))
    with pytest.raises(ValueError, match="divides the 2 heads"):
        replace(language_model, tp_plan="auto").load("cpu")


MISTRAL = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8
)


def test_bytes_of_a_token():
    """Keys and values of a 7B with 8 heads of 128: 2 x 32 x 8 x 128 numbers."""
    states = 2 * (4 * 4096 + 3 * 14336)
    assert count_token_bytes(MISTRAL, torch.bfloat16, written=False) == states
    assert count_token_bytes(MISTRAL, torch.bfloat16, written=True) == states + 131_072
    assert count_token_bytes(MISTRAL, torch.float32, written=True) == 2 * (states + 131_072)


@pytest.fixture
def on_cuda(tiny_model, language_model, monkeypatch):
    network = OnCuda.from_pretrained(tiny_model, dtype=torch.float32)
    monkeypatch.setattr(type(language_model), "load", lambda self, device, head: network)
    return network


def test_answers_take_a_whole_shard_where_the_device_has_room(language_model, on_cuda):
    weights = sum(4 * one.numel() for one in LlamaForCausalLM.parameters(on_cuda))
    token = 4 * (2 * 3 * 2 * 8 + 4 * 32 + 3 * 64)  # keys and values of 3 layers and 2 heads; states of one block
    for memory, free in [(weights + 200 * token, 0), (2**40, 0), (weights // 2, 0)]:
        with SimulatedCuda(memory=memory) as device:
            device.live = free  # what others hold does not decide
            running = RunningModel(language_model, CUDA, head=True)
            assert running.writing.size == 256
            assert running.writing.most == max(0, memory - weights) // 2 // token
            assert (running.reading.size, running.reading.most) == (language_model.batch_size, None)
            small = RunningModel(replace(language_model, answer_batch_size=3), CUDA, head=True)
            assert (small.writing.size, small.writing.most) == (3, None)  # what is asked for is tried


def test_on_the_cpu_answers_have_the_batches_of_the_forward(language_model):
    running = RunningModel(language_model, CPU, head=True)
    assert (
        (running.writing.size, running.writing.most)
        == (running.reading.size, running.reading.most)
        == (language_model.batch_size, None)
    )
    assert count_fitting_tokens(running.network, written=True) is None


def test_a_model_goes_to_the_device_it_names(language_model, monkeypatch):
    """A judge too, whatever the trainer has."""
    assert RunningModel(replace(language_model, device="cpu"), CUDA, head=True).device == CPU
    assert RunningModel(language_model, CUDA, head=True).device == CUDA
    with pytest.raises(ValueError, match=r"model.device: expected a device of this machine, got mps"):
        RunningModel(replace(language_model, device="mps"), CPU, head=True)


def test_each_of_several_processes_may_not_spread_a_model(language_model, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(
        ValueError, match=r"model.device_map: expected one process, as it spreads the model .* got 2 of"
    ):
        RunningModel(replace(language_model, device_map="auto"), CPU, head=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnAGpu:
    """The same on a real device."""

    def test_a_model_too_large_is_told_with_what_is_free(self, language_model):
        gc.collect()
        torch.cuda.empty_cache()  # what PyTorch has kept would hold so small a model
        torch.cuda.set_per_process_memory_fraction(1e-5)
        try:
            with pytest.raises(
                ValueError, match=r"about 0.0 GB in float32, got \d+\.\d GB free on cuda:0; choose model.d"
            ):
                language_model.load(CUDA)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        language_model.load(CUDA)

    @pytest.mark.parametrize("settings", [{}, {"device_map": "auto"}, {"device_map": {"model": 0, "lm_head": "cpu"}}])
    def test_a_model_that_is_left_gives_its_memory_back(self, language_model, settings):
        gc.collect()
        before = torch.cuda.memory_allocated()
        with RunningModel(replace(language_model, **settings), CUDA, head=True) as running:
            assert running.network.device.type == "cuda"
            assert torch.cuda.memory_allocated() > before
        assert torch.cuda.memory_allocated() == before

    def test_answers_in_batches_by_memory_are_those_of_the_cpu(self, language_model, monkeypatch):
        prompts = [[1, *range(5, 6 + i % 40)] for i in range(256)]
        made, sizes = {}, []

        def generate(network, tokenizer, batch, *settings):
            sizes.append(len(batch))
            return generate_answers(network, tokenizer, batch, *settings)

        monkeypatch.setattr("datamodules.language.answer_stage.generate_answers", generate)
        for device in (CPU, CUDA):
            with RunningModel(language_model, device, head=True) as running:
                stage = AnswerStage(running, list(map(str, range(256))), prompts, language_model)
                made[device] = stage.make(range(256), ["answers"], lambda rows: None)["answers"]
        tables = [pq.read_table(io.BytesIO(files["shard-00000.parquet"])) for files in made.values()]
        same = [a == b for a, b in zip(*(table["answer_ids"].to_pylist() for table in tables), strict=True)]
        assert sum(same) >= 250  # last bits may decide between two tokens
        assert sizes == [8] * 32 + [256]
