"""Batches of answers that grow on a GPU, here a simulated one, and go on where the cache entry remembers."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from datamodules.language.device_memory import GpuRoom
from datamodules.language.generation import Answer
from datamodules.language.stages import LanguageModelStages
from datamodules.questions.question import QuestionSet
from tests.support.simulated_cuda import CUDA, SimulatedCuda
from tests.support.simulated_model import OnCuda

PROMPTS = [[1, 5, 6, 7, 8, 9]] * 300
TOKENS = 6 + 14  # of a prompt and the longest answer
TAKEN = 400  # bytes that a token of a batch takes on this device


@pytest.fixture
def answer(tiny_model, language_model, monkeypatch, tmp_path):
    """Answer the prompts on a device with room for so many examples beside the weights; returns the batches."""
    network = OnCuda.from_pretrained(tiny_model, dtype=torch.float32)
    monkeypatch.setattr(type(language_model), "load", lambda self, device, head: network)
    questions = QuestionSet()
    questions.name = "growing"
    weights = sum(4 * one.numel() for one in LlamaForCausalLM.parameters(network))

    def run(examples, prompts=PROMPTS, stop_after=None):
        sizes = []

        def generate(network, tokenizer, batch, *settings):
            if len(sizes) == stop_after:
                raise KeyboardInterrupt
            sizes.append(len(batch))
            torch.empty(len(batch) * TOKENS * TAKEN, dtype=torch.uint8, device=CUDA)
            return [Answer(prompt, [3, 2], [0.0, 0.0], "stop", "") for prompt in batch]

        monkeypatch.setattr("datamodules.language.answer_stage.generate_answers", generate)
        memory = int((weights + examples * TOKENS * TAKEN) / 0.9)  # a tenth stays free
        with (
            SimulatedCuda(memory=memory) as device,
            LanguageModelStages(language_model, questions, str(tmp_path), CUDA, quiet=True) as stages,
        ):
            device.live = weights
            stages.answer(list(map(str, range(len(prompts)))), prompts)
        return sizes

    return run


def read_remembered(folder):
    (path,) = folder.glob("answers/*/.local/batch-Simulated-GPU.json")
    return json.loads(path.read_bytes())


def test_batches_grow_until_the_device_is_full_and_another_run_starts_there(answer, tmp_path):
    sizes = answer(70)
    assert sizes[:4] == [9, 19, 38, 38]  # twice as many would be more than 70
    assert max(sizes) == 38
    limit = read_remembered(tmp_path)
    assert (limit["most"] // TOKENS, limit["grows"]) == (38, True)
    for record in tmp_path.glob("answers/*/shard-*.json"):
        record.unlink()
    again = answer(70)
    assert again == [38] * 6 + [28, 38, 6]


def test_a_run_that_was_cut_off_goes_on_with_the_size_that_it_found(answer):
    with pytest.raises(KeyboardInterrupt):
        answer(600, stop_after=2)
    assert answer(600) == [256, 44]


def test_room_is_counted_from_what_was_held_before_the_batch():
    with SimulatedCuda(memory=1000):
        held = torch.empty(300, dtype=torch.uint8, device=CUDA)
        room = GpuRoom([CUDA])
        for taken, fits in [(300, True), (301, False), (10, True)]:  # 300 + 2 * 300 = .9 of 1,000
            room.watch()
            torch.empty(taken, dtype=torch.uint8, device=CUDA)
            assert room.fits_twice() == fits
        assert held.is_cuda
