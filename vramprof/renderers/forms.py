"""What a report can be saved as; nothing is imported here, for the command line names the forms first of all."""

FORMS = {
    "html": "the page",
    "json": "the report as JSON",
    "png": "a picture: memory over time, the peak, its segments",
    "svg": "the same picture as SVG",
    "perfetto": "a trace for ui.perfetto.dev",
    "pprof": "the peak for `pprof`",
    "folded": "the peak as folded stacks, for flame-graph tools",
    "snapshot": "a torch snapshot (.pickle) for pytorch.org/memory_viz",
    "vram": "the recording",
}
