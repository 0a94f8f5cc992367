"""Liger-Kernel's benchmark table: `max_memory_allocated` of one layer or loss on A100, H100, B200, RTX 3090 and 4090.

Each program repeats the layer as the benchmark script of the stated Liger-Kernel version does, all providers in one
process. The torch version is stated nowhere: the newest one of the day was taken, or the next that can be emulated.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

from prediction_accuracy.report import MIB, error_95, exact_share, median_error
from prediction_accuracy.rows import SHARED_DATA, Explanation, Goal, Program, Row

TABLE = SHARED_DATA / "measured" / "liger_kernels.csv"
CARDS = {
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA H100 80GB HBM3": "h100-80gb",
    "NVIDIA H100 PCIe": "h100-80gb",
    "NVIDIA GeForce RTX 3090": "rtx3090",
    "NVIDIA GeForce RTX 4090": "rtx4090",
    "NVIDIA B200": "b200",
}
RELEASES = {
    ("kl_div", "0.2.1"): "0.3.0",
    ("jsd", "0.3.1"): "0.4.0",
    ("fused_linear_jsd", "0.3.1"): "0.4.0",
    ("fused_linear_cross_entropy", "0.4.2"): "0.5.0",
    ("fused_linear_orpo_loss", "0.4.0"): "0.4.2",
    ("fused_linear_cpo_loss", "0.4.1"): "0.5.0",
    ("fused_linear_simpo_loss", "0.4.1"): "0.5.0",
    ("distill_jsd_loss", "0.4.2"): "0.5.3",
    ("kto_loss", "0.5.4"): "0.5.5",
    ("sparsemax", "0.5.8"): "0.5.10",
    ("softmax", "0.5.8"): "0.6.0",
    ("multi_token_attention", "0.1.1"): "0.6.0",
    ("sparse_multi_token_attention", "0.5.8"): "0.6.0",
    ("fused_neighborhood_attention", "0.5.10"): "0.6.0",
    ("distill_cosine_loss", "0.5.10"): "0.6.0",
    ("llama4_rope", "0.6.1"): "0.6.2",
    ("fused_linear_grpo_loss_token", "0.6.1"): "0.6.3",
    ("fused_linear_grpo_loss_sequence", "0.6.1"): "0.6.3",
    ("tiled_geglu", "0.6.3"): "0.6.4",
    ("tiled_swiglu", "0.6.3"): "0.6.4",
    ("relu_squared", "0.7.0"): "0.8.0",
    ("fused_moe", "0.7.0"): "0.8.0",
    ("megatron_rms_norm", "0.8.0"): "0.8.1",
    ("megatron_cross_entropy", "0.8.0"): "0.8.1",
    ("megatron_swiglu", "0.8.1"): "0.8.2",
}
"""The first release that has a kernel, where its row was measured while it was still being written."""
TORCH_SINCE = {
    "2.4.0": "2024-07",
    "2.5.0": "2024-10",
    "2.6.0": "2025-01",
    "2.7.0": "2025-04",
    "2.8.0": "2025-08",
    "2.9.0": "2025-10",
    "2.10.0": "2026-01",
    "2.11.0": "2026-03",
    "2.12.0": "2026-05",
    "2.13.0": "2026-07",
}
"""The months in which torch was released; the newest of a row's day is taken, for the table does not say."""
PLAIN = "plain PyTorch"
GROUPS = {
    "huggingface": PLAIN,
    "torch": PLAIN,
    "torch_compile": "torch.compile",
    "deepspeed_tiled": "plain PyTorch, recomputed",
    "megatron": "Megatron",
    "megatron-fused": "Megatron",
    "megatron-unfused": "Megatron",
}
LIGER = "Triton kernels"

GOALS = (
    Goal("plain PyTorch exact to 0.01 MiB", lambda row: row.group == PLAIN, exact_share, 0.8, at_least=True),
    Goal("median error of all rows", lambda row: True, median_error, 0.001),
    Goal("95th percentile of all rows", lambda row: True, error_95, 0.02),
)
EXPLANATIONS: tuple[Explanation, ...] = ()


def rows() -> Iterator[Row]:
    """Every row of the table."""
    with TABLE.open(newline="") as file:
        lines = list(csv.DictReader(file))
    asked: dict[tuple[str, ...], list[tuple[str, str, int]]] = {}
    for line in lines:
        asked.setdefault(_run_of(line), []).append(_figure(line))
    programs = {run: _program(run, tuple(figures)) for run, figures in asked.items()}
    for line in lines:
        yield _row(line, programs[_run_of(line)])


def _run_of(line: dict[str, str]) -> tuple[str, ...]:
    """What one run of a benchmark script has in common."""
    names = ("kernel_name", "gpu_name", "x_name", "extra_benchmark_config_str", "liger_version")
    return (*(line[name] for name in names), line["timestamp"][:7])


def _figure(line: dict[str, str]) -> tuple[str, str, int]:
    return line["kernel_provider"], line["kernel_operation_mode"], int(line["x_value"])


def _program(run: tuple[str, ...], asked: tuple[tuple[str, str, int], ...]) -> Program:
    kernel, gpu, _, config, version, month = run
    settings = tuple(sorted(json.loads(config).items()))
    packages = [f"liger-kernel=={RELEASES.get((kernel, version), version)}"]
    packages += ["megatron-core==0.16.1"] * kernel.startswith("megatron")
    torch_version = [release for release, since in TORCH_SINCE.items() if since <= month][-1]
    return Program.of(
        "liger_kernels",
        CARDS[gpu],
        torch_version=torch_version,
        packages=tuple(packages),
        kernel=kernel,
        settings=settings,
        asked=asked,
    )


def _row(line: dict[str, str], program: Program) -> Row:
    kernel, gpu, x_name, config, version, _ = _run_of(line)
    provider, mode, x = _figure(line)
    settings = ",".join(f"{name}={value}".replace("torch.", "") for name, value in json.loads(config).items())
    return Row(
        source="liger_kernels",
        group=GROUPS.get(provider, LIGER),
        key=f"{kernel}/{provider}/{mode}/{x_name}={x}/{settings}/{gpu.removeprefix('NVIDIA ')}",
        card=CARDS[gpu],
        quantity="allocated",
        measured_bytes=round(float(line["y_value_50"]) * MIB),
        program=program,
        point=f"{provider}/{mode}/{x}",
        fully_stated=False,
        note=f"Liger-Kernel {version}, {line['timestamp'][:10]}",
    )
