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


@program(subject="numerics")
def more_linalg() -> Iterator[None]:
    """Batched, complex and ill-shaped ones, and their derivatives."""
    import torch

    a = torch.randn(8, 64, 64, device="cuda", requires_grad=True)
    positive = a @ a.mT + 64 * torch.eye(64, device="cuda")
    (torch.linalg.solve(positive, a) + torch.linalg.cholesky(positive)).sum().backward()
    yield
    with torch.no_grad():
        torch.linalg.lstsq(torch.randn(256, 32, device="cuda"), torch.randn(256, 4, device="cuda"))
        torch.linalg.lu(a)
        torch.linalg.slogdet(positive)
        torch.linalg.pinv(a)
        torch.linalg.eigvals(a[0])
        torch.linalg.svdvals(torch.randn(64, 32, dtype=torch.complex64, device="cuda"))
        torch.linalg.ldl_factor(positive)
        torch.linalg.householder_product(*torch.geqrf(a[0]))
    yield


@program(subject="steered by values")
def matrix_exponential() -> Iterator[None]:
    """Sorts the matrices of a batch by their norms, which no kernel has computed."""
    import torch

    torch.linalg.matrix_exp(torch.randn(8, 64, 64, device="cuda"))
    yield


@program(subject="steered by values")
def iterative_eigenvalues() -> Iterator[None]:
    """Divides on the host by norms that no kernel has computed."""
    import torch

    a = torch.randn(64, 64, device="cuda")
    torch.lobpcg(a @ a.mT + 64 * torch.eye(64, device="cuda"), k=2, niter=2)
    yield


@program(subject="numerics")
def sparse() -> Iterator[None]:
    import torch

    at = torch.arange(1024).repeat(2, 1).cuda()
    coordinates = torch.sparse_coo_tensor(at, torch.ones(1024, device="cuda"), (1024, 1024), is_coalesced=True)
    dense = torch.randn(1024, 256, device="cuda", requires_grad=True)
    torch.sparse.mm(coordinates, dense).sum().backward()
    yield
    rows = torch.arange(1025).cuda()
    compressed = torch.sparse_csr_tensor(rows, at[0], torch.ones(1024, device="cuda"), (1024, 1024))
    compressed @ dense
    compressed @ dense[:, 0]
    torch.sparse.sampled_addmm(compressed, dense, dense.mT)
    yield
    embedding = torch.nn.Embedding(8192, 256, sparse=True).cuda()
    optimizer = torch.optim.SparseAdam(embedding.parameters())
    embedding(torch.arange(512).cuda()).sum().backward()
    optimizer.step()
    yield


@program(subject="quantised", gpu="h100-80gb")
def float8_matmul() -> Iterator[None]:
    import torch

    a = torch.randn(512, 1024, device="cuda").to(torch.float8_e4m3fn)
    b = torch.randn(256, 1024, device="cuda").to(torch.float8_e4m3fn).t()
    scale = torch.ones((), device="cuda")
    for out in (torch.bfloat16, torch.float32):
        torch._scaled_mm(a, b, scale_a=scale, scale_b=scale, out_dtype=out)
        yield
    rows, columns = torch.ones(512, 1, device="cuda"), torch.ones(1, 256, device="cuda")
    torch._scaled_mm(a, b, scale_a=rows, scale_b=columns, out_dtype=torch.bfloat16)
    yield


@program(subject="quantised")
def integer_matmul() -> Iterator[None]:
    import torch

    a = torch.randint(-8, 8, (512, 1024), dtype=torch.int8).cuda()
    b = torch.randint(-8, 8, (256, 1024), dtype=torch.int8).cuda()
    for _ in range(2):
        torch._int_mm(a, b.t())
        yield


@program(subject="quantised", gpu="h100-80gb")
def grouped_matmul() -> Iterator[None]:
    """One product for each expert."""
    import torch

    tokens = torch.randn(256, 512, dtype=torch.bfloat16, device="cuda")
    experts = torch.randn(4, 512, 1024, dtype=torch.bfloat16, device="cuda")
    ends = torch.tensor([64, 128, 192, 256], dtype=torch.int32).cuda()
    torch._grouped_mm(tokens, experts, offs=ends)
    yield


@program(subject="numerics")
def random_numbers_and_sorting() -> Iterator[None]:
    import torch

    x = torch.randn(1 << 20, device="cuda")
    x.sort()
    x.topk(100)
    x.cumsum(0)
    torch.randperm(1 << 16, device="cuda")
    torch.multinomial(x[:1024].abs() + 1, 10)
    torch.bincount(torch.arange(64).cuda(), minlength=64)
    torch.searchsorted(x, x[:10])
    torch.nn.functional.ctc_loss(
        torch.randn(50, 4, 20, device="cuda").log_softmax(-1),
        torch.ones(4, 10, dtype=torch.int32),
        (50,) * 4,
        (10,) * 4,
    )
    yield
