import numpy as np
import pytest
import torch

from datamodules.stream.out_of_memory import is_out_of_memory, pass_over_out_of_memory

# As they are printed, shortened.
OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB"),
    torch.OutOfMemoryError("HIP out of memory. Tried to allocate 2.00 GiB."),
    torch.OutOfMemoryError("Allocation on device"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("HIP error: out of memory"),
    RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    RuntimeError(
        "MPS backend out of memory (MPS allocated: 17.20 GB, other allocations: 1.00 GB, max allowed: 18.13 GB)"
    ),
    RuntimeError("Invalid buffer size: 15.26 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you tried to allocate 8"),
    MemoryError(),
]
OTHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    ValueError("expected memory for the weights, got out of memory"),
    KeyboardInterrupt("out of memory"),
]


def words(error):
    return f"{type(error).__name__}-{str(error)[:40]}"


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=words)
def test_memory_that_ran_out_is_recognised(error):
    assert is_out_of_memory(error)
    with pass_over_out_of_memory():
        raise error


@pytest.mark.parametrize("error", OTHER, ids=words)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)), pass_over_out_of_memory():
        raise error


@pytest.mark.parametrize("allocate", [lambda n: torch.empty(n, dtype=torch.uint8), lambda n: np.empty(n, np.uint8)])
def test_what_this_machine_says_is_understood(allocate):
    """More than an address can reach."""
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(2**60)
    assert is_out_of_memory(caught.value)
