"""One colour per category, told apart by people with any colour vision (after Okabe and Ito)."""

COLORS = {
    "weights": "#0072b2",
    "gradients": "#e69f00",
    "optimizer": "#cc79a7",
    "activations": "#009e73",
    "inputs": "#56b4e9",
    "outputs": "#94c973",
    "kv_cache": "#00b5ad",
    "temporaries": "#d55e00",
    "workspaces": "#8c8c8c",
    "buffers": "#5e4fa2",
    "program": "#f0e442",
    "unattributed": "#c9c9c9",
}
