"""LitGPT's recipes on an A10G: `max_memory_allocated` of fine-tuning, in full, with LoRA, or with LoRA on 4 bits.

The figures are in litgpt_torchtune.csv, in GB of two decimals; each recipe is in github.com/Lightning-AI/litgpt,
`config_hub/finetune`: put a checkout at ../shared/data/litgpt, or name it in VRAMPROF_LITGPT. Model, loss, and
precision are those of the LitGPT release of the days when a row was written. The versions of torch and Lightning are
stated nowhere: 2.5.1 and 2.3.3 were taken. The longest text has 512 tokens, where all are cut, as LitGPT's tutorial
prints for the recipe of Phi-2. Three figures can't be those of their recipes, and six recipes are for two or four
cards: these do not count as fully stated. Rows of four cards whose recipe asks for one repeat those of one card, and
are left out.
Not taken from the same file: LitGPT's LoRA tutorial, which does not tell the longest text of its data, and torchtune's
tables, which tell neither lengths nor all settings.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prediction_accuracy.report import error_95, median_error
from prediction_accuracy.rows import SHARED_DATA, Explanation, Goal, Program, Result, Row

TABLE = SHARED_DATA / "measured" / "litgpt_torchtune.csv"
RECIPES = Path(os.environ.get("VRAMPROF_LITGPT") or SHARED_DATA / "litgpt") / "config_hub" / "finetune"
CARD, TORCH = "a10g", "2.5.0"
RELEASES = {"phi-3": "0.4.3", "llama-3.1": "0.4.6", "gemma2-9b": "0.4.6", "gemma2-2b": "0.4.9", "llama-3.2": "0.4.13"}
FIRST_RELEASE = "0.3.1"
"""Of the rows of April 2024, that is all others."""
PACKAGES = ("lightning==2.3.3", "lightning-utilities==0.11.9", "torchmetrics==1.4.3", "bitsandbytes==0.42.0")
FULL = "ran out of memory"
GROUPS = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "LoRA on 4-bit weights"}


def _is_told(result: Result) -> bool:
    return result.group != FULL and result.fully_stated


def _fits(results: list[Result]) -> float:
    return sum(result.predicted_bytes != result.measured_bytes for result in results) / len(results)


GOALS = (
    Goal("median error (recipe possible on one card)", _is_told, median_error, 0.02),
    Goal("95th percentile (recipe possible on one card)", _is_told, error_95, 0.06),
    Goal("was out of memory, and the dry run is not", lambda row: row.group == FULL and row.fully_stated, _fits, 0.05),
)
CONTRADICTED = ("llama-3.2-1B/full.yaml", "llama-3.2-3B/full.yaml", "phi-3/full.yaml")
"""Two bytes for each weight and gradient and four for AdamW's two states are more than the table's peak."""
EXPLANATIONS = tuple(
    Explanation(
        f"*/{path}",
        "the recipe's bf16 weights, gradients and AdamW states alone are more than what was measured (12.0, 28.8 and"
        " 30.6 GB): something else was run",
    )
    for path in CONTRADICTED
)


def rows() -> Iterator[Row]:
    """One for each recipe that was run on one card, and one for each that needs several."""
    if not RECIPES.is_dir():
        raise FileNotFoundError(errno.ENOENT, "clone github.com/Lightning-AI/litgpt", str(RECIPES))
    with TABLE.open(newline="") as file:
        lines = [json.loads(line["row_json"]) for line in csv.DictReader(file) if line["section"] == "Config files"]
    for name, _, _, _, _, machine, _, _, peak, *_ in lines:
        path = _path(name)
        recipe = _recipe(path)
        if machine == "1xA10G" or recipe["devices"] > 1:
            yield _row(path, recipe, peak)


def _path(name: str) -> str:
    """The table writes some folders otherwise than they are called."""
    return re.sub(r"^(llama-3\.2-\d)b", r"\1B", re.sub(r"^gemma2b", "gemma2-2b", name))


def _row(path: str, recipe: dict[str, Any], peak: str) -> Row:
    from vramprof.prediction.catalog import find_device

    failed = peak == "OOM"
    release = next((one for family, one in RELEASES.items() if path.startswith(family)), FIRST_RELEASE)
    return Row(
        source="litgpt_a10g",
        group=FULL if failed else GROUPS[Path(path).stem],
        key=path,
        card=CARD,
        quantity="allocated",
        measured_bytes=find_device(CARD)[0].total_bytes if failed else round(float(peak.removesuffix(" GB")) * 1e9),
        program=Program.of(
            "litgpt_recipe",
            CARD,
            torch_version=TORCH,
            packages=(f"litgpt=={release}", *PACKAGES),
            recipe=json.dumps(recipe),
        ),
        point="out of memory" if failed else "trained",
        fully_stated=path not in CONTRADICTED and recipe["devices"] == 1,
        note=f"LitGPT {release}",
    )


def _recipe(path: str) -> dict[str, Any]:
    """What of a recipe matters here."""
    import yaml

    told = yaml.safe_load((RECIPES / path).read_text())
    train = told["train"]
    return {
        "model": told["checkpoint_dir"].rpartition("/")[2],
        "devices": told["devices"],
        "tokens": train["max_seq_length"],
        "batch": train["micro_batch_size"],
        "batches_per_step": train["global_batch_size"] // told["devices"] // train["micro_batch_size"],
        "quantize": told.get("quantize") or "",
        "lora": {key: value for key, value in told.items() if key.startswith("lora_")},
        "optimizer": told["optimizer"]["init_args"],
    }
