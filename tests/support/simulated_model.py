"""A language model whose weights say that they lie on a GPU."""

from transformers import LlamaForCausalLM

from tests.support.simulated_cuda import CUDA, SimulatedTensor


class OnCuda(LlamaForCausalLM):
    """A model whose weights say that they lie on a GPU."""

    def parameters(self, recurse=True):
        return (SimulatedTensor(one.detach()) for one in super().parameters(recurse))  # type: ignore[return-value]

    def buffers(self, recurse=True):
        return iter(())

    @property
    def device(self):
        return CUDA
