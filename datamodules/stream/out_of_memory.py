"""How to tell that memory ran out, on a GPU or the CPU, from other errors."""

from collections.abc import Iterator
from contextlib import contextmanager

# Libraries below torch have no error of their own, only words; in small letters. A handle of cuBLAS or cuSOLVER that
# cannot be made is nearly always one without room. Apple's device refuses a tensor above its largest buffer.
WORDS = (
    "out of memory",  # CUDA's and HIP's allocators and drivers, MPS, XPU
    "can't allocate memory",  # the CPU's allocator
    "not enough memory",  # the same on Windows
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
    "cublaslt_status_alloc_failed",
    "cusolver_status_alloc_failed",
    "cusolver_status_not_initialized",
    "cusparse_status_alloc_failed",
    "cusparse_status_insufficient_resources",
    "cudnn_status_alloc_failed",
    "hipblas_status_alloc_failed",
    "hipsolver_status_alloc_failed",
    "hiperroroutofmemory",
    "rocblas_status_memory_error",
    "miopenstatusallocfailed",
    "invalid buffer size",  # MPS
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, so that less work at once may succeed.

    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    True
    """
    import torch  # here: a configuration is checked without it

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in WORDS)


@contextmanager
def pass_over_out_of_memory() -> Iterator[None]:
    """Leave the block where memory runs out, and go on behind it; what the block still held is let go by then.

    Other errors are raised.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
