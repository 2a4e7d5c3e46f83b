"""The only place that touches ComfyUI's internals: modules, loading, patching."""
