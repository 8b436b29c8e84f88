"""Tensors of a device without float64, which stands for Apple's GPU: fitted on the CPU, and brought back."""

import pytest
import torch
from torch import Tensor

from probes.solver.logistic import fit_logistic
from probes.solver.mass_mean import fit_mass_mean


class OnMps(Tensor):
    """A tensor that says it lies on `mps`, and refuses everything but being taken to the CPU."""

    @property
    def device(self):
        return torch.device("mps", 0)

    def __repr__(self, **_):
        return "OnMps"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "__get__":  # shape and dtype are known without the device
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args)
        if name not in ("to", "watched") or torch.device(args[1]).type != "cpu":
            raise TypeError(f"{name}: MPS has no float64")
        with torch._C.DisableTorchFunctionSubclass():
            return args[0].as_subclass(Tensor)


@pytest.fixture
def returned(monkeypatch):
    """What is taken to the device, which is checked as the device would."""
    taken, to = [], Tensor.to

    def watched(self, *args, **kwargs):
        if args and isinstance(args[0], torch.device) and args[0].type == "mps":
            assert self.dtype != torch.float64
            taken.append(self)
            return self.as_subclass(OnMps)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", watched)
    return taken


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("fit", [fit_logistic, fit_mass_mean])
def test_fits_are_those_of_the_cpu_and_come_back(fit, by_name, returned):
    generator = torch.Generator().manual_seed(0)
    acts, labels = torch.randn(2, 40, 6, generator=generator), torch.arange(40) % 2
    valid = torch.rand(2, 40, generator=generator) < 0.9
    expected = fit(acts, labels, valid)
    given = {"acts": acts, "labels": labels, "valid": valid}
    there = {name: tensor.as_subclass(OnMps) for name, tensor in given.items()}
    found = fit(**there) if by_name else fit(*there.values())
    assert type(found) is type(expected)
    assert all(type(field) is OnMps for field in found)
    assert len(returned) == len(expected)
    assert all(torch.equal(one, two) for one, two in zip(returned, expected, strict=True))


def test_without_it_the_device_refuses(returned):
    acts = torch.randn(1, 8, 3).as_subclass(OnMps)
    with pytest.raises(TypeError, match="no float64"):
        fit_logistic.__wrapped__(acts, torch.arange(8) % 2)
