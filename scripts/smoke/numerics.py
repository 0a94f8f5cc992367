"""The numerical libraries: linear algebra, transforms, sparse and quantised matrices."""

from __future__ import annotations

from collections.abc import Iterator

from smoke.registry import program


@program(subject="numerics", core=True)
def linalg_fft() -> Iterator[None]:
    import torch

    a = torch.randn(512, 512, device="cuda")
    positive = a @ a.mT + 512 * torch.eye(512, device="cuda")
    torch.linalg.cholesky(positive)
    torch.linalg.qr(a)
    torch.linalg.svd(a)
    torch.linalg.eigh(positive)
    torch.linalg.solve(positive, a)
    torch.linalg.inv(positive)
    yield
    signal = torch.randn(64, 4096, device="cuda", requires_grad=True)
    torch.fft.irfft(torch.fft.rfft(signal)).sum().backward()
    torch.fft.fft2(torch.randn(8, 256, 256, device="cuda"))
    yield
