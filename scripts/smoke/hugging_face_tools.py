"""What people wrap around a model: Trainer, accelerate, peft, generate(), and diffusers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from smoke.hugging_face import TRANSFORMERS, causal
from smoke.registry import program

DIFFUSERS = ("diffusers", "transformers")


@program(subject="HF Trainer", needs=("transformers", "accelerate"))
def trainer() -> Iterator[None]:
    import tempfile

    import torch
    import transformers

    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(8192, (12, 256))]
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=3,
            bf16=True,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        transformers.Trainer(causal("LlamaConfig"), arguments, train_dataset=rows).train()
    yield


@program(subject="accelerate", needs=("accelerate",))
def accelerate_loop() -> Iterator[None]:
    import torch
    from accelerate import Accelerator

    from smoke import models

    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    model = models.Transformer()
    ids = models.tokens(8, 256).cpu()
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(ids), batch_size=2)
    model, optimizer, batches = accelerator.prepare(model, torch.optim.AdamW(model.parameters()), batches)
    for (batch,) in batches:
        with accelerator.accumulate(model):
            accelerator.backward(models.next_token_loss(model, batch))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        yield


@program(subject="accelerate", needs=("accelerate", "transformers"))
def accelerate_cpu_offload() -> Iterator[None]:
    """Inference with weights that stay on the host and visit the card layer by layer."""
    import torch
    from accelerate import cpu_offload

    from smoke import models

    model = cpu_offload(causal("LlamaConfig").eval(), execution_device=torch.device("cuda"))
    with torch.inference_mode():
        for _ in range(2):
            model(models.tokens(1, 256)).logits.argmax(-1).cpu()
            yield


@program(subject="peft", needs=("peft", "transformers"))
def peft_lora() -> Iterator[None]:
    import torch
    from peft import LoraConfig, get_peft_model

    from smoke import models

    config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.05)
    model = get_peft_model(causal("LlamaConfig"), config).to("cuda", torch.bfloat16)
    ids = models.tokens(2, 512)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    yield from models.train(lambda: model(input_ids=ids, labels=ids).loss, model, optimizer=optimizer)


@program(subject="bitsandbytes", needs=("bitsandbytes",))
def adam_in_8_bits() -> Iterator[None]:
    import bitsandbytes
    import torch

    from smoke import models

    model = models.mlp()
    x = torch.randn(256, 1024, device="cuda")
    optimizer = bitsandbytes.optim.AdamW8bit(model.parameters())
    yield from models.train(lambda: model(x).square().mean(), model, optimizer=optimizer)


@program(subject="bitsandbytes", needs=("bitsandbytes", "peft", "transformers"))
def qlora() -> Iterator[None]:
    """Frozen weights in four bits, trained ones beside them."""
    import bitsandbytes
    import torch
    from peft import LoraConfig, get_peft_model

    from smoke import models

    model = causal("LlamaConfig").to(torch.bfloat16)
    for layer in model.model.layers:
        old = layer.mlp.down_proj
        layer.mlp.down_proj = bitsandbytes.nn.Linear4bit(
            old.in_features, old.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
    model = get_peft_model(model.cuda(), LoraConfig(target_modules=["q_proj", "v_proj", "down_proj"]))
    ids = models.tokens(2, 256)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    yield from models.train(lambda: model(input_ids=ids, labels=ids).loss, model, optimizer=optimizer)


@program(subject="torchao", needs=("torchao",))
def torchao_int8() -> Iterator[None]:
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    from smoke import models

    model = models.mlp().to(torch.bfloat16).eval()
    quantize_(model, Int8WeightOnlyConfig())
    with torch.inference_mode():
        for _ in range(2):
            model(torch.randn(64, 1024, dtype=torch.bfloat16, device="cuda"))
            yield


@program(subject="Lightning", needs=("lightning",))
def lightning_fit() -> Iterator[None]:
    import lightning
    import torch

    from smoke import models

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = models.Transformer()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return models.next_token_loss(self.net, batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    rows = torch.utils.data.TensorDataset(models.tokens(8, 256).cpu())
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    fit = lightning.Trainer(accelerator="gpu", devices=1, precision="bf16-mixed", max_steps=3, **quiet)
    fit.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=2))
    yield


def generate(model: Any, *, new_tokens: int = 32, **options: Any) -> None:
    from smoke import models

    model.generate(models.tokens(2, 64), max_new_tokens=new_tokens, pad_token_id=0, **options)


@program(subject="HF generate", needs=TRANSFORMERS)
def generate_growing_cache() -> Iterator[None]:
    import torch

    model = causal("LlamaConfig", num_key_value_heads=2).to("cuda", torch.bfloat16).eval()
    for new_tokens in (32, 16):
        generate(model, new_tokens=new_tokens, do_sample=False)
        yield


@program(subject="HF generate", needs=TRANSFORMERS)
def generate_static_cache() -> Iterator[None]:
    import torch

    model = causal("LlamaConfig", num_key_value_heads=2).to("cuda", torch.bfloat16).eval()
    for _ in range(2):
        generate(model, cache_implementation="static", disable_compile=True, do_sample=True)
        yield


@program(subject="HF generate", needs=TRANSFORMERS)
def generate_beams() -> Iterator[None]:
    import torch

    model = causal("Qwen3Config", num_key_value_heads=4, head_dim=64).to("cuda", torch.bfloat16).eval()
    generate(model, num_beams=4)
    yield


@program(subject="diffusers UNet", needs=DIFFUSERS)
def diffusion_unet() -> Iterator[None]:
    import torch
    from diffusers import UNet2DConditionModel

    from smoke import models

    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(64, 128, 256, 256),
        cross_attention_dim=256,
        attention_head_dim=8,
    ).cuda()
    latents, text = torch.randn(2, 4, 32, 32, device="cuda"), torch.randn(2, 77, 256, device="cuda")
    steps = torch.tensor([10, 500]).cuda()

    def loss() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return unet(latents, steps, text).sample.square().mean()

    yield from models.train(loss, unet)


@program(subject="diffusers DiT", needs=DIFFUSERS)
def diffusion_dit() -> Iterator[None]:
    import torch
    from diffusers import DiTTransformer2DModel

    from smoke import models

    model = DiTTransformer2DModel(num_layers=4, num_attention_heads=8, attention_head_dim=64, sample_size=32).cuda()
    latents = torch.randn(2, 4, 32, 32, device="cuda")
    steps, classes = torch.tensor([10, 500]).cuda(), torch.tensor([1, 2]).cuda()
    yield from models.train(lambda: model(latents, timestep=steps, class_labels=classes).sample.square().mean(), model)


@program(subject="diffusers VAE", needs=DIFFUSERS)
def diffusion_vae() -> Iterator[None]:
    import torch
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(64, 128, 256),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
    ).to("cuda", torch.half)
    with torch.inference_mode():
        for _ in range(2):
            latents = model.encode(torch.randn(1, 3, 256, 256, dtype=torch.half, device="cuda")).latent_dist.sample()
            model.decode(latents).sample.cpu()
            yield
