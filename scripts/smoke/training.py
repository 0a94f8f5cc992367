"""Training with torch alone."""

from __future__ import annotations

from collections.abc import Iterator

from smoke.registry import program


@program(subject="training", core=True)
def mlp() -> Iterator[None]:
    import torch

    from smoke import models

    model = models.mlp()
    x = torch.randn(256, 1024, device="cuda")
    yield from models.train(lambda: model(x).square().mean(), model)


@program(subject="training", core=True)
def transformer() -> Iterator[None]:
    import torch

    from smoke import models

    model, ids = models.Transformer().cuda(), models.tokens()

    def loss() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return models.next_token_loss(model, ids)

    yield from models.train(loss, model)


@program(subject="training", core=True)
def convnet() -> Iterator[None]:
    import torch
    from torch.nn import functional

    from smoke import models

    model = models.convnet()
    images, labels = torch.randn(16, 3, 128, 128, device="cuda"), torch.zeros(16, dtype=torch.long, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    yield from models.train(lambda: functional.cross_entropy(model(images), labels), model, optimizer=optimizer)


@program(subject="training", core=True)
def lstm() -> Iterator[None]:
    import torch

    from smoke import models

    model = torch.nn.LSTM(256, 512, num_layers=2, batch_first=True, bidirectional=True, dropout=0.1).cuda()
    x = torch.randn(16, 64, 256, device="cuda")
    yield from models.train(lambda: model(x)[0].square().mean(), model)


@program(subject="training")
def gru() -> Iterator[None]:
    import torch

    from smoke import models

    model = torch.nn.GRU(256, 512, num_layers=2).cuda()
    x = torch.randn(64, 16, 256, device="cuda")
    yield from models.train(lambda: model(x)[0].square().mean(), model)


@program(subject="training", core=True)
def amp_gradscaler() -> Iterator[None]:
    import torch

    from smoke import models

    model = models.mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler("cuda")
    x = torch.randn(256, 1024, device="cuda")
    for _ in range(models.STEPS):
        with torch.autocast("cuda", torch.float16):
            loss = model(x).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        yield


@program(subject="training", core=True)
def optimizers() -> Iterator[None]:
    """Adam as one kernel, as lists of tensors and tensor by tensor, and then others that keep other states."""
    import torch

    from smoke import models

    x = torch.randn(64, 1024, device="cuda")
    kinds = [
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.AdamW(p, foreach=True),
        lambda p: torch.optim.AdamW(p, foreach=False),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.Adafactor(p),
        lambda p: torch.optim.RMSprop(p, centered=True),
    ]
    for kind in kinds:
        model = models.mlp(depth=2)
        yield from models.train(lambda model=model: model(x).square().mean(), model, optimizer=kind(model.parameters()))
        del model


@program(subject="training", core=True)
def checkpointing() -> Iterator[None]:
    import torch
    from torch.utils.checkpoint import checkpoint

    from smoke import models

    class Checkpointed(models.Transformer):
        def run_block(self, block: models.Block, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(block, x, use_reentrant=False)

    model, ids = Checkpointed().cuda(), models.tokens()
    yield from models.train(lambda: models.next_token_loss(model, ids), model)


@program(subject="training")
def selective_checkpointing() -> Iterator[None]:
    """Keeps what the matrix products gave and computes the rest again."""
    from functools import partial

    import torch
    from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

    from smoke import models

    kept = partial(create_selective_checkpoint_contexts, [torch.ops.aten.mm.default, torch.ops.aten.addmm.default])

    class Checkpointed(models.Transformer):
        def run_block(self, block: models.Block, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(block, x, use_reentrant=False, context_fn=kept)

    model, ids = Checkpointed().cuda(), models.tokens()
    yield from models.train(lambda: models.next_token_loss(model, ids), model)


@program(subject="training")
def activation_offload() -> Iterator[None]:
    """Saved tensors wait in pinned memory for the backward pass."""
    import torch

    from smoke import models

    model = models.mlp()
    x = torch.randn(1024, 1024, device="cuda")

    def loss() -> torch.Tensor:
        with torch.autograd.graph.save_on_cpu(pin_memory=True):
            return model(x).square().mean()

    yield from models.train(loss, model)


@program(subject="training")
def weight_offload() -> Iterator[None]:
    """Layers live in pinned memory and visit the card one after another."""
    import torch

    from smoke import models

    model = models.mlp(depth=8)
    homes = {parameter: parameter.detach().cpu().pin_memory() for parameter in model.parameters()}
    for parameter, home in homes.items():
        parameter.data = home
    x = torch.randn(64, 1024, device="cuda")
    with torch.no_grad():
        for _ in range(models.STEPS):
            y = x
            for layer in model:
                for parameter in layer.parameters():
                    parameter.data = homes[parameter].to("cuda", non_blocking=True)
                y = layer(y)
                for parameter in layer.parameters():
                    parameter.data = homes[parameter]
            yield


def attend(backends: list[str]) -> Iterator[None]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    shape = (2, 8, 512, 64)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3))
    for backend in backends:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            scaled_dot_product_attention(q, k, v, is_causal=True).square().mean().backward()
        q.grad = k.grad = v.grad = None
        yield


@program(subject="attention")
def attention_back_ends() -> Iterator[None]:
    yield from attend(["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"])


@program(subject="attention", gpu="h100-80gb")
def attention_of_cudnn() -> Iterator[None]:
    yield from attend(["CUDNN_ATTENTION"])


@program(subject="profiling")
def torch_profiler() -> Iterator[None]:
    """There are no kernels to be timed; what torch itself records of memory is there."""
    import torch

    from smoke import models

    model = models.mlp()
    x = torch.randn(256, 1024, device="cuda")
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds, profile_memory=True, record_shapes=True) as profiler:
        yield from models.train(lambda: model(x).square().mean(), model)
    assert any(event.self_device_memory_usage for event in profiler.key_averages())
    yield
