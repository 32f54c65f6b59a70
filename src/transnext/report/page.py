"""The page as a whole."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transnext.report.history import History, best_epoch, curves_section, total_of
from transnext.report.parts import Result, Section
from transnext.report.results import main_metric, results_section, shown
from transnext.report.style import STYLE
from transnext.report.text import count, duration, escape, finite, magnitude, number
from transnext.version import __version__

MAX_SKIPPED = 200
"""Unreadable images listed by name."""

# Nothing is ever fetched, and no script runs: also if someone's class name found a way around the escaping.
SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def build_report(
    *,
    title: str,
    config: Mapping[str, Any],
    history: History,
    results: Sequence[Result],
    facts: Sequence[str] = (),
    sections: Sequence[Section] = (),
) -> str:
    """The report of a run: one HTML page that needs nothing beside itself.

    Args:
        title: Heading of the page.
        config: Everything that decided the run, shown in full. `model`, `data`, `image_size` and `parameters` (a
            number) also appear in the headline where they are given.
        history: A mapping for each epoch: `epoch` (from 1), `train_loss`, `val_loss`, more numbers that begin with
            `train_` or `val_`, `lr`, `images_per_second`, `seconds`; any may be absent or NaN.
        results: What was evaluated, in the order to show it.
        facts: What else the headline says, for example the number of classes.
        sections: What the task shows; empty ones are left out.

    Returns:
        HTML5, also well-formed XML; write it as UTF-8.
    """
    whole = [
        Section(key="results", title="Results", html=results_section(results)),
        Section(key="curves", title="Learning curves", html=curves_section(history)),
        *sections,
        Section(key="skipped", title="Images that could not be read", html=_skipped_section(results)),
        Section(key="configuration", title="Configuration", html=_config_section(config)),
    ]
    whole = [section for section in whole if section.html]
    links = "".join(f'<a href="#{section.key}">{section.title}</a>' for section in whole)
    body = "".join(f'<section id="{s.key}"><h2>{s.title}</h2>{s.html}</section>' for s in whole)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{SECURITY_POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        '<meta name="color-scheme" content="light dark"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(title)}</h1>{_summary(config, history, facts)}"
        f'<dl class="tiles">{_tiles(config, history, results)}</dl><nav aria-label="Sections">{links}</nav></header>'
        f"<main>{body}</main><footer>Made by transnext {escape(__version__)}</footer></body></html>\n"
    )


def _summary(config: Mapping[str, Any], history: History, facts: Sequence[str]) -> str:
    parts = [f"<b>{escape(config['model'])}</b>"] if config.get("model") else []
    if config.get("data"):
        parts.append(f"on <b>{escape(config['data'])}</b>")
    parts += map(escape, facts)
    if config.get("image_size"):
        parts.append(f"images at {escape(config['image_size'])}\u202fpx")
    if history:
        parts.append(count(len(history), "epoch"))
    return f'<p class="summary">{", ".join(parts).replace(", on ", " on ", 1)}</p>'


def _tiles(config: Mapping[str, Any], history: History, results: Sequence[Result]) -> str:
    tiles: list[tuple[str, str, list[str]]] = []
    if results:
        name, main = next(iter(results[0].metrics.items()))
        best = best_epoch(history, f"val_{name}")
        if best is not None:
            value = shown(replace(main, value=best[0]))
            tiles.append((f"Validation {main.title}", value, ["best of all epochs", f"in epoch {best[1]}"]))
    for result in results:
        metric = main_metric(result)
        if metric is not None:
            interval = metric.interval
            between = [] if interval is None else [f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}\u202f%"]
            notes = [*between, count(result.num_images, "image")]
            tiles.append((f"{result.split} {metric.title}", shown(metric), notes))
    seconds = total_of(history, "seconds")
    if seconds is not None:
        rates = [r for entry in history if (r := finite(entry.get("images_per_second"))) is not None]
        speed = [f"{number(statistics.median(rates))} images/s"] if rates else []
        tiles.append(("Training time", duration(seconds), speed))
    parameters = finite(config.get("parameters"))
    if parameters is not None:
        tiles.append(("Parameters", magnitude(parameters), [count(int(parameters))]))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}"
        f"{''.join(f'<small>{escape(note)}</small>' for note in notes)}</dd></div>"
        for name, value, notes in tiles
    )


def _skipped_section(results: Sequence[Result]) -> str:
    skipped = [(result.split, name, reason) for result in results for name, reason in result.skipped]
    if not skipped:
        return ""
    rows = "".join(
        f'<tr><td>{escape(split)}</td><td class="path">{escape(name)}</td><td>{escape(reason)}</td></tr>'
        for split, name, reason in skipped[:MAX_SKIPPED]
    )
    more = len(skipped) - MAX_SKIPPED
    rest = f'<p class="note">And {count(more)} more.</p>' if more > 0 else ""
    return (
        f"<p>{count(len(skipped), 'image')} left out of all numbers above.</p>"
        '<div class="scroll" tabindex="0" role="region" aria-label="Images that could not be read"><table><thead><tr>'
        '<th scope="col">Split</th><th scope="col">Image</th><th scope="col">Reason</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{rest}"
    )


def _config_section(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td class="path">{escape(_plain(value))}</td></tr>'
        for key, value in config.items()
    )
    if not rows:
        return ""
    return (
        f"<details><summary>All {count(len(config), 'setting')}</summary>"
        '<table class="config"><thead><tr><th scope="col">Setting</th><th scope="col">Value</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )


def _plain(value: object) -> str:
    if value is None or isinstance(value, (bool, dict, list, tuple)):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)
