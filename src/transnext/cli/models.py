"""`transnext models`."""

import sys

from rich.console import Console
from rich.table import Table


def models() -> None:
    """List the models and their weights."""
    import timm

    from transnext.models.variants import GMACS, default_cfgs

    table = Table(title="Models")
    for name, width in {"model": 25, "parameters": 10, "GMACs": 5, "input": 5}.items():
        table.add_column(name, justify="left" if name == "model" else "right", min_width=width, no_wrap=True)
    table.add_column("weights", overflow="fold")
    for name in timm.list_models("transnext_*"):
        for tag, cfg in default_cfgs[name].cfgs.items():
            full_name = f"{name}.{tag}" if tag else name
            parameters = sum(p.numel() for p in timm.create_model(full_name, device="meta").parameters())
            source = cfg.hf_hub_id or ("in this package" if cfg.file else "none")
            size = f"{cfg.input_size[-1]}"
            table.add_row(full_name, f"{parameters / 1e6:.2f} M", f"{GMACS[full_name]:.2f}", size, source)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
