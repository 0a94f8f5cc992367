"""The ways in which a program speaks to torch's allocator: graphs, pools, streams, settings."""

from __future__ import annotations

from collections.abc import Iterator

from smoke.registry import program


@program(subject="CUDA graphs", core=True)
def cuda_graph() -> Iterator[None]:
    """A whole training step, captured once and replayed."""
    import torch

    from smoke import models

    model = models.mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, capturable=True)
    x = torch.randn(128, 1024, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    yield
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    yield
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    yield


@program(subject="CUDA graphs")
def graphs_sharing_a_pool() -> Iterator[None]:
    import torch

    from smoke import models

    model = models.mlp().requires_grad_(False)
    shapes = [torch.randn(rows, 1024, device="cuda") for rows in (512, 128, 32)]
    model(shapes[0])
    pool = torch.cuda.graph_pool_handle()
    graphs, outputs = [], []
    for x in shapes:
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], pool=pool):
            outputs.append(model(x))
        yield
    for graph in graphs:
        graph.replay()
    yield


@program(subject="CUDA graphs")
def graphed_callables() -> Iterator[None]:
    import torch

    from smoke import models

    model = models.mlp()
    x = torch.randn(128, 1024, device="cuda", requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(model, (x,))
    yield from models.train(lambda: graphed(x).square().mean(), model)


@program(subject="pools", core=True)
def memory_pool() -> Iterator[None]:
    """Tensors of a pool of their own, which gives its memory back when it goes."""
    import torch

    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        inside = [torch.empty(size << 20, dtype=torch.uint8, device="cuda") for size in (1, 8, 40)]
    outside = torch.empty(8 << 20, dtype=torch.uint8, device="cuda")
    yield
    del inside
    with torch.cuda.use_mem_pool(pool):
        inside = [torch.empty(size << 20, dtype=torch.uint8, device="cuda") for size in (40, 8)]
    yield
    del inside, pool
    torch.cuda.empty_cache()
    del outside
    yield


@program(subject="settings", core=True, environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
def expandable_segments() -> Iterator[None]:
    import torch

    from smoke import models

    model, ids = models.Transformer().cuda(), models.tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for length in (128, 512, 256):
        models.next_token_loss(model, ids[:, :length]).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield
    torch.cuda.empty_cache()
    yield


@program(subject="settings", environment={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"})
def malloc_async() -> Iterator[None]:
    """The driver's own pools in place of torch's allocator."""
    import torch

    from smoke import models

    model, ids = models.Transformer().cuda(), models.tokens()
    yield from models.train(lambda: models.next_token_loss(model, ids), model)
    torch.cuda.empty_cache()
    yield


@program(
    subject="settings",
    environment={
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,garbage_collection_threshold:0.6,roundup_power2_divisions:4"
    },
)
def allocator_settings() -> Iterator[None]:
    import torch

    torch.cuda.set_per_process_memory_fraction(0.5)
    for round_ in range(3):
        kept = [torch.empty((7 + 13 * i + round_) << 18, dtype=torch.uint8, device="cuda") for i in range(24)]
        del kept[::2]
        kept += [torch.empty(200 << 20, dtype=torch.uint8, device="cuda") for _ in range(4)]
        del kept
        yield


@program(subject="streams", core=True)
def streams() -> Iterator[None]:
    """A tensor made on one stream, used on another and told so; what is freed meanwhile waits for an event."""
    import torch

    copies, compute = torch.cuda.Stream(), torch.cuda.current_stream()
    weight = torch.randn(2048, 2048, device="cuda")
    host = torch.empty(2048, 2048, pin_memory=True)
    for _ in range(4):
        with torch.cuda.stream(copies):
            batch = host.to("cuda", non_blocking=True)
        compute.wait_stream(copies)
        batch.record_stream(compute)
        product = batch @ weight
        del batch, product
        yield
    torch.cuda.synchronize()
    yield
