"""Liger-Kernel's benchmark table: `max_memory_allocated` of one layer or loss on A100, H100, B200, RTX 3090 and 4090.

Each program repeats the layer as the benchmark script of the stated Liger-Kernel version does, all providers in one
process. The torch version is stated nowhere: the newest one of the day was taken, or the next that can be emulated; for
KTO 2.5.1, because its rows have the 1.2 GiB that a layer compiled under 2.5 keeps, and 2.6 keeps nothing. Which
sequences KTO prefers is drawn without a seed, and moves its plain rows by up to 2 MiB. Which experts a router chooses
is drawn with one, and was computed as the card draws it: the rows of few tokens are exact; in those of many, blocks
reused from the timing before, which was not repeated draw for draw, move the peak by up to 0.6 %.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

from prediction_accuracy.report import MIB, error_95, exact_share, median_error
from prediction_accuracy.rows import SHARED_DATA, Explanation, Goal, Program, Row

Line = dict[str, str]
Figure = tuple[int, str, str, int]
"""Index of the settings, provider, mode, x."""
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
    ("layer_norm", "0.2.1"): "0.3.0",
    ("embedding", "0.2.1"): "0.3.0",
    ("layer_norm", "0.6.0"): "0.6.1",
    ("kl_div", "0.2.1"): "0.3.0",
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
COMMITS = {
    ("fused_linear_orpo_loss", "0.4.0"): "6b2fd02d574c80a394fb9b0205ae629ac604095a",
    ("fused_linear_cpo_loss", "0.4.1"): "16d06edf4f0a7af1c5996c6c6eba82542c20c839",
    ("fused_linear_simpo_loss", "0.4.1"): "ebd53035306685aaad8b7df1582ce77b66a23be1",
    ("jsd", "0.3.1"): "8e2f3a477871b3c72f3f054673edbd656497752d",
    ("fused_linear_jsd", "0.3.1"): "ff6650bbcef5d31b7522694cbeb73a21169460e9",
}
"""The commit that brought a kernel and its rows, where the first release allocates otherwise."""
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
TORCH_HELD = {"kto_loss": "2.5.0"}
"""Older than the newest of the day: the figures have what a compiled layer keeps under 2.5, and 2.6 keeps nothing."""
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
EXPLANATIONS = (
    Explanation(
        "*/embedding/*",
        "a constant in all rows, and steps of the earlier compiled layers' sizes, fit layers that torch.compile of"
        " torch 2.4 still held from before (inferred); 2.4.1 is emulated, but did not end within 390 s here",
    ),
    Explanation(
        "*/fused_linear_orpo_loss/huggingface/*T=4096*",
        "too much by 3.5 half-precision logits of every token, to the byte: an earlier draft of the script, which kept"
        " logits as they were (inferred)",
    ),
    Explanation(
        "*/distill_jsd_loss/*",
        "run under torch 2.6, which keeps nothing of a compiled layer; under 2.5.1, that of the day, it took more than"
        " 500 s here (probable, as in the rows of ORPO, CPO, SimPO and KTO)",
    ),
    Explanation(
        "*/sparsemax/liger/*",
        "each is equal to the plain row of its size: the draft of the script measured one function for both (inferred)",
    ),
)


def rows() -> Iterator[Row]:
    """Every row of the table."""
    with TABLE.open(newline="") as file:
        lines = list(csv.DictReader(file))
    runs: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        runs.setdefault(_run_of(line), []).append(line)
    for run, its_lines in runs.items():
        configs = list(dict.fromkeys(line["extra_benchmark_config_str"] for line in its_lines))
        asked = [_figure(line, configs) for line in its_lines]
        program = _program(run, configs, asked)
        yield from (_row(line, program, figure) for line, figure in zip(its_lines, asked, strict=True))


def _run_of(line: Line) -> tuple[str, ...]:
    """What one run of a benchmark script has in common; the last is the hour, as 2024-11-13 21."""
    names = ("kernel_name", "gpu_name", "x_name", "liger_version")
    return (*(line[name] for name in names), line["timestamp"][:13])


def _figure(line: Line, configs: list[str]) -> Figure:
    setting = configs.index(line["extra_benchmark_config_str"])
    return setting, line["kernel_provider"], line["kernel_operation_mode"], int(line["x_value"])


def _program(run: tuple[str, ...], configs: list[str], asked: list[Figure]) -> Program:
    kernel, gpu, _, version, hour = run
    packages = [_liger(kernel, version)]
    packages += ["megatron-core==0.16.1"] * kernel.startswith("megatron")
    packages += ["transformers==4.46.3", "tokenizers==0.20.3"] * (hour < "2025-03")  # what Liger-Kernel then imported
    torch_version = TORCH_HELD.get(kernel) or [release for release, since in TORCH_SINCE.items() if since <= hour][-1]
    return Program.of(
        "liger_kernels",
        CARDS[gpu],
        torch_version=torch_version,
        packages=tuple(packages),
        kernel=kernel,
        settings=tuple(tuple(sorted(json.loads(config).items())) for config in configs),
        asked=tuple(asked),
    )


def _liger(kernel: str, version: str) -> str:
    if commit := COMMITS.get((kernel, version)):
        return f"git+https://github.com/linkedin/Liger-Kernel@{commit}"
    return f"liger-kernel=={RELEASES.get((kernel, version), version)}"


def _row(line: Line, program: Program, figure: Figure) -> Row:
    kernel, gpu, x_name, version, _ = _run_of(line)
    _, provider, mode, x = figure
    config = json.loads(line["extra_benchmark_config_str"])
    settings = ",".join(f"{name}={value}".replace("torch.", "") for name, value in config.items())
    return Row(
        source="liger_kernels",
        group=GROUPS.get(provider, LIGER),
        key=f"{kernel}/{provider}/{mode}/{x_name}={x}/{settings}/{gpu.removeprefix('NVIDIA ')}",
        card=CARDS[gpu],
        quantity="allocated",
        measured_bytes=round(float(line["y_value_50"]) * MIB),
        program=program,
        point="/".join(map(str, figure)),
        fully_stated=False,
        note=f"Liger-Kernel {version}, {line['timestamp'][:10]}",
    )
